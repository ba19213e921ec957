// See schema_reader.h. Here: references, allOf, anyOf and oneOf become alternatives.
#include "quern/grammar/schema_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>

#include "quern/base/error.h"
#include "quern/grammar/schema_values.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxAlternatives = 256;  // of one place

}  // namespace

// Follows references and allOf. False: nothing can satisfy the entries.
bool SchemaReader::flatten(const Conjunction& entries, Conjunction& flat,
                           std::vector<Union>& unions) {
  std::vector<const Json*> work;
  std::map<const Json*, bool> seen;
  for (const SchemaEntry& entry : entries) {
    if (entry.own) {
      flat.push_back(entry);
    } else {
      work.push_back(entry.schema);
    }
  }
  for (std::size_t i = 0; i < work.size(); ++i) {
    const Json& schema = *work[i];
    if (!seen.emplace(&schema, true).second) continue;
    check(schema);
    if (schema.is_boolean()) {
      if (schema == false) return false;
      continue;
    }
    flat.push_back({&schema, true});
    if (const Json* reference = schema_member(schema, "$ref")) {
      work.push_back(&resolve(schema, reference->get<std::string>()));
    }
    if (const Json* all = schema_member(schema, "allOf")) {
      for (const Json& part : *all) work.push_back(&part);
    }
    for (const std::string_view keyword : {"anyOf", "oneOf"}) {
      const Json* branches = schema_member(schema, keyword);
      if (branches != nullptr) unions.push_back({&schema, branches, keyword});
    }
  }
  flat = normal(std::move(flat));
  return true;
}

std::vector<Conjunction> SchemaReader::alternatives(const Conjunction& entries) {
  std::vector<Conjunction> work = {entries};
  std::vector<Conjunction> result;
  std::size_t steps = 0;
  for (std::size_t i = 0; i < work.size(); ++i) {
    tick();
    Conjunction flat;
    std::vector<Union> unions;
    if (!flatten(work[i], flat, unions)) continue;
    if (unions.empty()) {
      if (std::ranges::find(result, flat) == result.end()) result.push_back(std::move(flat));
      continue;
    }
    // The first union is opened; the others stay with the branch.
    const Union choice = unions.front();
    for (const Union& other : unions) {
      if (other.keyword == "oneOf") check_one_of(other, flat);
    }
    for (const Json& branch : *choice.branches) {
      if (++steps > kMaxAlternatives) {
        fail(*choice.owner, fmt::format("'{}' leads to more than {} combinations", choice.keyword,
                                        kMaxAlternatives));
      }
      Conjunction next = flat;
      next.push_back({&branch, false});
      // Branches of the other unions: all at once, as their own product.
      std::vector<Conjunction> products = {next};
      for (std::size_t u = 1; u < unions.size(); ++u) {
        std::vector<Conjunction> longer;
        for (const Conjunction& product : products) {
          for (const Json& other : *unions[u].branches) {
            longer.push_back(product);
            longer.back().push_back({&other, false});
          }
        }
        if (longer.size() > kMaxAlternatives) {
          fail(*choice.owner, fmt::format("'{}' leads to more than {} combinations",
                                          unions[u].keyword, kMaxAlternatives));
        }
        products = std::move(longer);
      }
      for (Conjunction& product : products) work.push_back(normal(std::move(product)));
      if (work.size() > 4 * kMaxAlternatives) {
        fail(*choice.owner, fmt::format("'{}' leads to too many combinations", choice.keyword));
      }
    }
  }
  return result;
}

// A text that two branches match would be wrong: they must exclude each other.
void SchemaReader::check_one_of(const Union& choice, const Conjunction& base) {
  // What stands around the branches decides too: elsewhere they may overlap.
  if (!checked_one_ofs_.emplace(choice.branches, base).second) return;
  constexpr int kMaxNested = 64;  // checking looks into the branches
  if (one_of_depth_ >= kMaxNested) fail(*choice.owner, "'oneOf' is nested too deeply");
  ++one_of_depth_;
  for (std::size_t a = 0; a < choice.branches->size(); ++a) {
    for (std::size_t b = a + 1; b < choice.branches->size(); ++b) {
      Conjunction left = base;
      Conjunction right = base;
      left.push_back({&(*choice.branches)[a], false});
      right.push_back({&(*choice.branches)[b], false});
      if (disjoint(normal(left), normal(right), 0)) continue;
      fail(*choice.owner,
           fmt::format("'oneOf' is supported only where its branches exclude each other by type, "
                       "enum, const or a required property; branches {} and {} may both match: use "
                       "'anyOf'",
                       a, b));
    }
  }
  --one_of_depth_;
}

bool SchemaReader::disjoint(const Conjunction& a, const Conjunction& b, int depth) {
  constexpr int kLookingInside = 4;
  if (depth > kLookingInside) return false;
  const std::vector<Conjunction> left = alternatives(a);
  const std::vector<Conjunction> right = alternatives(b);
  return std::ranges::all_of(left, [&](const Conjunction& l) {
    return std::ranges::all_of(right,
                               [&](const Conjunction& r) { return disjoint_flat(l, r, depth); });
  });
}

bool SchemaReader::disjoint_flat(const Conjunction& a, const Conjunction& b, int depth) {
  if (const auto values = this->values(a)) {
    return std::ranges::none_of(*values, [&](const Json& v) { return valid(v, b); });
  }
  if (const auto values = this->values(b)) {
    return std::ranges::none_of(*values, [&](const Json& v) { return valid(v, a); });
  }
  const unsigned common = types(a) & types(b);
  if (common == 0) return true;
  if (common == kObjectType) return disjoint_objects(a, b, depth);
  if (common == kStringType) return intersect(text(a), text(b)).empty();
  if ((common & ~(kIntegerType | kNumberType)) == 0) {
    const NumberBounds left = numbers(a);
    const NumberBounds right = numbers(b);
    const auto below = [](const NumberBounds& low, const NumberBounds& high) {
      return low.high && high.low &&
             (low.high->value < high.low->value ||
              (low.high->value == high.low->value && (low.high->exclusive || high.low->exclusive)));
    };
    return below(left, right) || below(right, left);
  }
  return false;
}

bool SchemaReader::disjoint_objects(const Conjunction& a, const Conjunction& b, int depth) {
  const ObjectShape left = object(a);
  const ObjectShape right = object(b);
  const auto find = [](const ObjectShape& shape, const std::string& name) {
    const auto found = std::ranges::find(shape.properties, name, &ObjectShape::Property::name);
    return found == shape.properties.end() ? nullptr : &*found;
  };
  const auto excludes = [&](const ObjectShape& one, const ObjectShape& other) {
    return std::ranges::any_of(one.properties, [&](const ObjectShape::Property& property) {
      if (!property.required) return false;
      const auto* same = find(other, property.name);
      if (same == nullptr) return other.more.empty();
      return same->required && disjoint(property.value, same->value, depth + 1);
    });
  };
  return excludes(left, right) || excludes(right, left);
}

}  // namespace quern::grammar
