// Filters on lists and dicts (see interpreter.h).
#include <algorithm>
#include <array>
#include <functional>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/jinja/text_tools.h"
#include "quern/text/unicode.h"

namespace quern::jinja {
namespace {

Value generator(Values items) {
  return Value::sequence(Sequence::Kind::kGenerator, std::move(items));
}

// sort, unique, min, max compare text without case unless asked.
Value folded(const Value& value, bool case_sensitive) {
  if (value.text() == nullptr || case_sensitive) return value;
  spend(scan_steps(value.bytes().size()));
  return Value(to_lower(value.bytes()));
}

// The key of an item for `attribute`: several, separated by commas, give a tuple.
Value sort_key(Interpreter& in, const Value& item, const Value& attribute, bool case_sensitive) {
  if (attribute.is_none()) return folded(item, case_sensitive);
  if (attribute.text() == nullptr || attribute.bytes().find(',') == std::string::npos) {
    return folded(in.defined(attribute_path(in, item, attribute)), case_sensitive);
  }
  Values keys;
  for (const Value& part : split(attribute.bytes(), ",", -1, false)) {
    keys.push_back(folded(in.defined(attribute_path(in, item, part)), case_sensitive));
  }
  return Value::tuple(std::move(keys));
}

Values sorted(Interpreter& in, Values items, bool reverse,
              const std::function<Value(const Value&)>& key) {
  std::vector<std::pair<Value, Value>> keyed;
  for (Value& item : items) keyed.emplace_back(key(item), std::move(item));
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    in.step();
    const int order = compare(a.first, b.first);
    return reverse ? order > 0 : order < 0;
  });
  for (std::size_t i = 0; i < items.size(); ++i) items[i] = std::move(keyed[i].second);
  return items;
}

Value sort_filter(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("sort", call, {"reverse", "case_sensitive", "attribute"});
  return Value::list(sorted(in, in.iterate(value), args.flag(0), [&](const Value& item) {
    return sort_key(in, item, args.get(2), args.flag(1));
  }));
}

Value dictsort(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("dictsort", call, {"case_sensitive", "by", "reverse"});
  if (value.dict() == nullptr)
    throw Error("dictsort: a dict is required, not {}", value.type_name());
  const std::string by = args.text(1, "key");
  if (by != "key" && by != "value")
    throw Error("dictsort: you can only sort by either \"key\" or \"value\"");
  in.step(value.dict()->items().size());
  Values pairs;
  for (const auto& [key, item] : value.dict()->items()) pairs.push_back(Value::tuple({key, item}));
  return Value::list(sorted(in, std::move(pairs), args.flag(2), [&](const Value& pair) {
    return folded(pair.sequence()->items[by == "key" ? 0 : 1], args.flag(0));
  }));
}

Value unique(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("unique", call, {"case_sensitive", "attribute"});
  Dict seen;
  Values items;
  for (Value& item : in.iterate(value)) {
    const Value key = sort_key(in, item, args.get(1), args.flag(0));
    if (seen.find(key) != nullptr) continue;
    seen.set(key, true);
    items.push_back(std::move(item));
  }
  return generator(std::move(items));
}

template <int kSign>
Value extreme(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("min/max", call, {"case_sensitive", "attribute"});
  const Values items = in.iterate(value);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty.");
  const Value* best = nullptr;
  Value best_key;
  for (const Value& item : items) {
    Value key = sort_key(in, item, args.get(1), args.flag(0));
    if (best != nullptr && compare(key, best_key) * kSign <= 0) continue;
    best = &item;
    best_key = std::move(key);
  }
  return *best;
}

Value sum(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("sum", call, {"attribute", "start"});
  Value total = args.get(1, 0);
  for (const Value& item : in.iterate(value)) {
    total = in.arithmetic("+", total,
                          args.get(0).is_none() ? item : attribute_path(in, item, args.get(0)));
  }
  return total;
}

Value length(Interpreter& in, const Value& value, CallArgs&) {
  const auto size = in.length(value);
  if (!size) throw Error("object of type '{}' has no len()", value.type_name());
  return *size;
}

Value first(Interpreter& in, const Value& value, CallArgs&) {
  const Values items = in.iterate(value);
  return items.empty() ? Value::undefined("No first item, sequence was empty.") : items.front();
}

Value last(Interpreter& in, const Value& value, CallArgs&) {
  if (value.sequence() != nullptr && value.sequence()->kind == Sequence::Kind::kGenerator) {
    throw Error("'generator' object is not reversible");
  }
  const Values items = in.iterate(value);
  return items.empty() ? Value::undefined("No last item, sequence was empty.") : items.back();
}

Value reverse(Interpreter& in, const Value& value, CallArgs&) {
  if (value.text() != nullptr) return in.slice(value, {}, {}, -1);
  Values items = in.iterate(value);
  std::reverse(items.begin(), items.end());
  return generator(std::move(items));
}

Value join(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("join", call, {"d", "attribute"});
  const std::string separator = in.text_of(args.get(0, ""));
  std::string out;
  bool first_item = true;
  for (const Value& item : in.iterate(value)) {
    if (!std::exchange(first_item, false)) out += separator;
    in.step(copy_steps(separator.size()));
    out += in.text_of(args.get(1).is_none() ? item : attribute_path(in, item, args.get(1)));
    in.check_size(out.size());
  }
  return Value(std::move(out));
}

Value items_filter(Interpreter& in, const Value& value, CallArgs&) {
  if (value.undefined() != nullptr && !in.strict()) return generator({});
  if (in.defined(value).dict() == nullptr) throw Error("Can only get item pairs from a mapping.");
  in.step(value.dict()->items().size());
  Values items;
  for (const auto& [key, item] : value.dict()->items()) items.push_back(Value::tuple({key, item}));
  return generator(std::move(items));
}

// select, reject, selectattr, rejectattr: the test's name and arguments follow the attribute.
template <bool kKeep, bool kAttribute>
Value select(Interpreter& in, const Value& value, CallArgs& call) {
  std::size_t used = 0;
  Value attribute;
  if (kAttribute) {
    if (call.positional.empty()) throw Error("Missing parameter for attribute name");
    attribute = call.positional[used++];
  }
  std::string test;
  if (call.positional.size() > used) test = in.text_of(call.positional[used++]);
  const Values rest(call.positional.begin() + static_cast<std::ptrdiff_t>(used),
                    call.positional.end());
  Values kept;
  for (Value& item : in.iterate(value)) {
    const Value tested = kAttribute ? attribute_path(in, item, attribute) : item;
    in.step(rest.size() + call.keyword.size());
    CallArgs args{rest, call.keyword};
    const bool holds = test.empty() ? in.truth(tested) : in.test(test, tested, args);
    if (holds == kKeep) kept.push_back(std::move(item));
  }
  return generator(std::move(kept));
}

Value map(Interpreter& in, const Value& value, CallArgs& call) {
  Values out;
  const bool by_attribute = call.positional.empty();
  std::optional<Value> attribute;
  std::optional<Value> fallback;
  if (by_attribute) {
    for (auto& [name, argument] : call.keyword) {
      if (name == "attribute")
        attribute = argument;
      else if (name == "default")
        fallback = argument;
      else
        throw Error("map: unexpected keyword argument '{}'", name);
    }
    if (!attribute) throw Error("map requires a filter argument");
  }
  for (const Value& item : in.iterate(value)) {
    if (by_attribute) {
      Value found = attribute_path(in, item, *attribute);
      out.push_back(fallback && found.undefined() != nullptr ? *fallback : std::move(found));
    } else {
      in.step(call.positional.size() + call.keyword.size());
      CallArgs args{Values(call.positional.begin() + 1, call.positional.end()), call.keyword};
      out.push_back(in.filter(in.text_of(call.positional.front()), item, args));
    }
  }
  return generator(std::move(out));
}

Value batch(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("batch", call, {"linecount", "fill_with"}, 1);
  const Int size = args.integer(0);
  if (size < 1 || size > 1'000'000) throw Error("batch: linecount must be from 1 to 1000000");
  Values rows;
  Values row;
  for (Value& item : in.iterate(value)) {
    row.push_back(std::move(item));
    if (static_cast<Int>(row.size()) == size) rows.push_back(Value::list(std::exchange(row, {})));
  }
  if (!row.empty()) {
    while (!args.get(1).is_none() && static_cast<Int>(row.size()) < size)
      row.push_back(args.get(1));
    in.step(row.size());
    rows.push_back(Value::list(std::move(row)));
  }
  return generator(std::move(rows));
}

// Rows of items with one value of the attribute: (grouper, list), in the order of the values.
Value groupby(Interpreter& in, const Value& value, CallArgs& call) {
  const Bound args("groupby", call, {"attribute", "default", "case_sensitive"}, 1);
  const auto key_of = [&](const Value& item) {
    Value key = attribute_path(in, item, args.get(0));
    if (key.undefined() != nullptr && args.has(1)) key = args.get(1);
    return folded(in.defined(key), args.flag(2));
  };
  const Values items = sorted(in, in.iterate(value), false, key_of);
  Values rows;
  for (std::size_t begin = 0; begin < items.size();) {
    std::size_t end = begin + 1;
    while (end < items.size() && key_of(items[end]) == key_of(items[begin])) ++end;
    Values group(items.begin() + static_cast<std::ptrdiff_t>(begin),
                 items.begin() + static_cast<std::ptrdiff_t>(end));
    Value grouper = attribute_path(in, items[begin], args.get(0));
    if (grouper.undefined() != nullptr) grouper = args.get(1);
    rows.push_back(Value::tuple({grouper, Value::list(std::move(group))}));
    begin = end;
  }
  return Value::list(std::move(rows));
}

constexpr std::array<std::pair<std::string_view, Filter>, 22> kSequenceFilters = {{
    {"length", length},
    {"count", length},
    {"first", first},
    {"last", last},
    {"list", [](Interpreter& in, const Value& v, CallArgs&) { return Value::list(in.iterate(v)); }},
    {"join", join},
    {"items", items_filter},
    {"reverse", reverse},
    {"sort", sort_filter},
    {"dictsort", dictsort},
    {"unique", unique},
    {"min", extreme<-1>},
    {"max", extreme<1>},
    {"sum", sum},
    {"map", map},
    {"select", select<true, false>},
    {"reject", select<false, false>},
    {"selectattr", select<true, true>},
    {"rejectattr", select<false, true>},
    {"batch", batch},
    {"groupby", groupby},
    {"random",
     [](Interpreter&, const Value&, CallArgs&) -> Value {
       throw Error("filter 'random': a rendering is repeatable");
     }},
}};

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  for (const auto& [key, filter] : kSequenceFilters) {
    if (key == name) return filter;
  }
  return nullptr;
}

}  // namespace quern::jinja
