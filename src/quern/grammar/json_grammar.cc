// See json_grammar.h.
#include "quern/grammar/json_grammar.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/grammar/regex_grammar.h"

namespace quern::grammar {
namespace {

constexpr const char* kSpace = " ?|\n[ \t]{0,20}";

}  // namespace

JsonGrammar::JsonGrammar(GrammarBuilder& builder, const JsonStyle& style)
    : builder_(builder), style_(style) {
  const bool plain = !style.any_whitespace && style.whitespace_regex.empty();
  if (plain) {
    space_ = builder_.empty();
  } else {
    const std::string& regex = style.whitespace_regex;
    try {
      space_ = builder_.text(regex_automaton(regex.empty() ? kSpace : regex, RegexMatch::kWhole),
                             Encoding::kText);
    } catch (Error& error) {
      error.add_context("whitespace_pattern");
      throw;
    }
  }
  comma_ = plain ? builder_.literal(", ") : builder_.sequence({builder_.literal(","), space_});
  colon_ =
      plain ? builder_.literal(": ") : builder_.sequence({space_, builder_.literal(":"), space_});
}

// All spellings; escapes of surrogates come in pairs.
ExprId JsonGrammar::string_char() {
  CharSet plain = CharSet({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}).complement();
  if (style_.inside_tags) plain = plain.minus(CharSet::of('<'));
  const ExprId hex = builder_.chars({{'0', '9'}, {'A', 'F'}, {'a', 'f'}});
  const ExprId d = builder_.chars({{'D', 'D'}, {'d', 'd'}});
  const ExprId not_d = builder_.chars({{'0', '9'}, {'A', 'C'}, {'E', 'F'}, {'a', 'c'}, {'e', 'f'}});
  const ExprId low_digit = builder_.chars({{'0', '7'}});
  const ExprId high = builder_.chars({{'8', '9'}, {'A', 'B'}, {'a', 'b'}});
  const ExprId low = builder_.chars({{'C', 'F'}, {'c', 'f'}});
  const ExprId code = builder_.choice(
      {builder_.sequence({not_d, hex, hex, hex}), builder_.sequence({d, low_digit, hex, hex}),
       builder_.sequence({d, high, hex, hex, builder_.literal("\\u"), d, low, hex, hex})});
  const ExprId escape = builder_.choice({builder_.chars({{'"', '"'},
                                                         {'\\', '\\'},
                                                         {'/', '/'},
                                                         {'b', 'b'},
                                                         {'f', 'f'},
                                                         {'n', 'n'},
                                                         {'r', 'r'},
                                                         {'t', 't'}}),
                                         builder_.sequence({builder_.literal("u"), code})});
  return builder_.choice(
      {builder_.chars(plain), builder_.sequence({builder_.literal("\\"), escape})});
}

ExprId JsonGrammar::any_string() {
  if (!any_string_) {
    const ExprId quote = builder_.literal("\"");
    any_string_ = builder_.sequence({quote, builder_.repeat(string_char(), 0, kUnbounded), quote});
  }
  return *any_string_;
}

ExprId JsonGrammar::any_value() {
  if (any_value_) return builder_.call(*any_value_);
  any_value_ = builder_.add_rule("json value");
  const ExprId number = builder_.text(number_text({}), Encoding::kText);
  const ExprId value = builder_.sequence({builder_.call(*any_value_), space_});
  const ExprId items = builder_.sequence(
      {value, builder_.repeat(builder_.sequence({comma_, value}), 0, kUnbounded)});
  builder_.define(
      *any_value_,
      builder_.choice({any_object(), any_string(), number, builder_.literal("true"),
                       builder_.literal("false"), builder_.literal("null"),
                       builder_.sequence({builder_.literal("["), space_, builder_.optional(items),
                                          builder_.literal("]")})}));
  return builder_.call(*any_value_);
}

ExprId JsonGrammar::any_object() {
  if (any_object_) return builder_.call(*any_object_);
  any_object_ = builder_.add_rule("json object");
  const ExprId member = builder_.sequence({any_string(), colon_, any_value(), space_});
  const ExprId members = builder_.sequence(
      {member, builder_.repeat(builder_.sequence({comma_, member}), 0, kUnbounded)});
  builder_.define(*any_object_,
                  builder_.sequence({builder_.literal("{"), space_, builder_.optional(members),
                                     builder_.literal("}")}));
  return builder_.call(*any_object_);
}

ExprId JsonGrammar::schema(SchemaReader& reader, const Conjunction& entries) {
  if (entries.empty()) return any_value();
  const auto [found, added] = rules_.try_emplace({&reader, entries}, RuleId{});
  if (added) {
    constexpr std::size_t kMaxRules = 20000;
    if (promises_.size() >= kMaxRules) throw Error("json schema: it has too many parts");
    found->second = builder_.add_rule("schema");
    promises_.push_back({&reader, entries, found->second});
  }
  return builder_.call(found->second);
}

// A queue instead of recursion: chains of references may be long.
void JsonGrammar::finish() {
  for (; kept_ < promises_.size(); ++kept_) {
    const Promise promise = promises_[kept_];
    builder_.define(promise.rule, build(*promise.reader, promise.entries));
  }
}

ExprId JsonGrammar::build(SchemaReader& reader, const Conjunction& entries) {
  std::vector<ExprId> choices;
  for (const Conjunction& flat : reader.alternatives(entries)) {
    reader.tick();
    choices.push_back(build_flat(reader, flat));
  }
  return builder_.choice(std::move(choices));
}

ExprId JsonGrammar::build_flat(SchemaReader& reader, const Conjunction& flat) {
  std::vector<ExprId> choices;
  if (const auto values = reader.values(flat)) {
    for (const Json& value : *values) choices.push_back(value_literal(value));
    return builder_.choice(std::move(choices));
  }
  const unsigned types = reader.types(flat);
  if (types & kObjectType) choices.push_back(object(reader, reader.object(flat)));
  if (types & kArrayType) choices.push_back(array(reader, reader.array(flat)));
  if (types & kStringType) {
    const ExprId quote = builder_.literal("\"");
    choices.push_back(
        reader.constrains_text(flat)
            ? builder_.sequence({quote, builder_.text(reader.text(flat), encoding()), quote})
            : any_string());
  }
  if (types & kNumberType) {
    choices.push_back(builder_.text(number_text(reader.numbers(flat)), Encoding::kText));
  } else if (types & kIntegerType) {
    choices.push_back(builder_.text(integer_text(reader.numbers(flat)), Encoding::kText));
  }
  if (types & kBooleanType) {
    choices.push_back(builder_.literal("true"));
    choices.push_back(builder_.literal("false"));
  }
  if (types & kNullType) choices.push_back(builder_.literal("null"));
  return builder_.choice(std::move(choices));
}

ExprId JsonGrammar::key(const std::string& name) { return value_literal(Json(name)); }

ExprId JsonGrammar::value_literal(const Json& value) {
  if (value.is_string()) {
    const ExprId quote = builder_.literal("\"");
    return builder_.sequence(
        {quote, builder_.text(one_of({value.get<std::string>()}), encoding()), quote});
  }
  if (!value.is_structured()) return builder_.literal(value.dump());
  std::vector<ExprId> parts = {builder_.literal(value.is_object() ? "{" : "["), space_};
  bool first = true;
  for (const auto& [name, member] : value.items()) {
    if (!std::exchange(first, false)) parts.push_back(comma_);
    if (value.is_object()) {
      parts.push_back(key(name));
      parts.push_back(colon_);
    }
    parts.push_back(value_literal(member));
    parts.push_back(space_);
  }
  parts.push_back(builder_.literal(value.is_object() ? "}" : "]"));
  return builder_.sequence(std::move(parts));
}

// A network over (declared members passed, members written): the second only as far as separators
// and counts need it. A value stands behind its key once for each count.
ExprId JsonGrammar::object(SchemaReader& reader, const ObjectShape& shape) {
  const std::int64_t members = static_cast<std::int64_t>(shape.properties.size());
  const auto required = std::ranges::count_if(
      shape.properties, [](const ObjectShape::Property& p) { return p.required; });
  if (shape.min > 1 && shape.min > required && !shape.more.empty()) {
    throw Error(
        "json schema: 'minProperties' {} is not supported where keys are free: they could repeat; "
        "declare the properties, or require them",
        shape.min);
  }
  std::int64_t highest = shape.max ? *shape.max : std::max<std::int64_t>(shape.min, 1);
  if (shape.max && shape.more.empty()) highest = std::min(highest, members);
  // The first comparison keeps the product from running over.
  if (highest > kMaxObjectStates || (members + 1) * (highest + 1) > kMaxObjectStates) {
    throw Error("json schema: 'minProperties' or 'maxProperties' {} is too large", highest);
  }
  const auto width = static_cast<int>(highest) + 1;
  const auto state = [&](std::int64_t passed, std::int64_t written) {
    return static_cast<int>(passed) * width + static_cast<int>(written);
  };
  int num_states = (static_cast<int>(members) + 1) * width;
  std::vector<Expr::Edge> edges;
  const auto add_member = [&](ExprId name, ExprId value, int from_passed, int to_passed) {
    std::vector<int> middle(static_cast<std::size_t>(width), -1);
    const ExprId first = builder_.sequence({name, colon_});
    const ExprId later = builder_.sequence({comma_, name, colon_});
    const ExprId rest = builder_.sequence({value, space_});
    for (std::int64_t written = 0; written < width; ++written) {
      std::int64_t next = written + 1;
      if (next > highest) {
        if (shape.max) continue;
        next = highest;
      }
      int& between = middle[static_cast<std::size_t>(next)];
      if (between < 0) {
        between = num_states++;
        edges.push_back({between, state(to_passed, next), rest, false});
      }
      edges.push_back({state(from_passed, written), between, written == 0 ? first : later, false});
    }
  };
  for (std::int64_t i = 0; i < members; ++i) {
    const ObjectShape::Property& property = shape.properties[static_cast<std::size_t>(i)];
    add_member(key(property.name), schema(reader, property.value), static_cast<int>(i),
               static_cast<int>(i) + 1);
    if (property.required) continue;
    for (std::int64_t written = 0; written < width; ++written) {
      edges.push_back({state(i, written), state(i + 1, written), builder_.empty(), true});
    }
  }
  for (const ObjectShape::Keys& keys : shape.more) {
    const ExprId quote = builder_.literal("\"");
    const ExprId name =
        keys.any ? any_string()
                 : builder_.sequence({quote, builder_.text(keys.names, encoding()), quote});
    add_member(name, schema(reader, keys.value), static_cast<int>(members),
               static_cast<int>(members));
  }
  std::vector<int> accepting;
  for (std::int64_t written = shape.min; written < width; ++written) {
    accepting.push_back(state(members, written));
  }
  return builder_.sequence({builder_.literal("{"), space_,
                            builder_.network(num_states, std::move(edges), std::move(accepting)),
                            builder_.literal("}")});
}

ExprId JsonGrammar::array(SchemaReader& reader, const ArrayShape& shape) {
  const auto prefix = static_cast<std::int64_t>(shape.prefix.size());
  std::int64_t max = shape.max.value_or(kUnbounded);
  if (!shape.rest) max = max == kUnbounded ? prefix : std::min(max, prefix);
  const std::int64_t separate = shape.rest ? std::max<std::int64_t>(prefix, 1) : prefix;
  const auto item = [&](std::int64_t i) {
    const Conjunction& entries =
        i < prefix ? shape.prefix[static_cast<std::size_t>(i)] : *shape.rest;
    return builder_.sequence({schema(reader, entries), space_});
  };
  // State i: i items were written; behind the separate ones the rest repeats.
  std::vector<Expr::Edge> edges;
  std::vector<int> accepting;
  const int last = static_cast<int>(separate) + 1;
  for (std::int64_t i = 0; i <= separate; ++i) {
    if (i >= shape.min && (max == kUnbounded || i <= max)) accepting.push_back(static_cast<int>(i));
    if (i == separate || (max != kUnbounded && i >= max)) continue;
    const ExprId next = i == 0 ? item(i) : builder_.sequence({comma_, item(i)});
    edges.push_back({static_cast<int>(i), static_cast<int>(i) + 1, next, false});
  }
  if (shape.rest && (max == kUnbounded || max > separate)) {
    const std::int64_t at_least = std::max<std::int64_t>(shape.min - separate, 1);
    const std::int64_t at_most = max == kUnbounded ? kUnbounded : max - separate;
    const ExprId more = builder_.sequence({comma_, item(prefix)});
    edges.push_back(
        {static_cast<int>(separate), last, builder_.repeat(more, at_least, at_most), false});
    accepting.push_back(last);
  }
  return builder_.sequence({builder_.literal("["), space_,
                            builder_.network(last + 1, std::move(edges), std::move(accepting)),
                            builder_.literal("]")});
}

}  // namespace quern::grammar
