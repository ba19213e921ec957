// See tool_grammar.h. The format: NS<tool_call> NL, for each call NS<invoke name="NAME">,
// parameters, NS</invoke> NL, then NS</tool_call>; a parameter is NS<name> value NS</name>, members
// of objects and items of arrays are elements in their turn.
//
// The parser reads a value with a schema of its own choice (`view`): that of the first container
// among alternatives, and none behind references. So a text of an alternative stands in the grammar
// only when the parser reads it as what the alternative means.
#include "quern/grammar/tool_grammar.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "quern/base/error.h"
#include "quern/grammar/json_grammar.h"
#include "quern/grammar/regex_grammar.h"
#include "quern/grammar/schema_reader.h"
#include "quern/grammar/structured_output.h"
#include "quern/text/tool_parser.h"
#include "quern/text/tool_parser_convert.h"

namespace quern::grammar {
namespace {

constexpr int kMaxElements = 24;  // nesting of elements; deeper values are left out
const std::string kMarker(kToolNamespace);

// Begins no number, true, false, null, nan, inf or JSON text: the parser takes it for a string
// whatever other types are allowed.
constexpr const char* kSurelyText = "(?:[A-EG-HJ-MO-SU-Za-eg-hj-mo-su-z#$%&'()*,/:;=?@!][^]*)?";

CharAutomaton regex(const char* pattern) { return regex_automaton(pattern, RegexMatch::kWhole); }

bool is_tag_name(const std::string& name) {
  return !name.empty() && name.front() != '/' && name.find('>') == std::string::npos &&
         name.find(kMarker) == std::string::npos && !name.starts_with("invoke name=") &&
         name.find_first_not_of(" \t\r\n\f\v") == 0;
}

// What the parser makes of texts under a schema.
class ParserView {
 public:
  explicit ParserView(const Json* schema) : schema_(schema) {
    if (schema_ != nullptr && !schema_->is_object()) schema_ = nullptr;
    if (schema_ != nullptr) container_ = find_container(*schema_);
  }

  bool reads(const std::string& text, const Json& value) const {
    const Json read = parse_json(convert_element({"x", text, {}}, schema_), "argument",
                                 {.max_depth = 160, .reject_duplicate_keys = false});
    return read == value;
  }
  bool reads_json() const { return reads("[1]", Json::array({1})); }
  bool only_text() const { return schema_ == nullptr || is_string_only(*schema_); }
  bool reads_list() const { return container_.schema != nullptr && container_.array; }
  bool reads_members() const { return container_.schema != nullptr && !container_.array; }
  ParserView member(const std::string& name) const {
    return ParserView(child_schema(container_.schema, name));
  }
  ParserView item() const { return ParserView(schema_member(*container_.schema, "items")); }

 private:
  const Json* schema_;
  Container container_;
};

class ArgumentGrammar {
 public:
  ArgumentGrammar(const Json& schema, GrammarBuilder& builder)
      : builder_(builder),
        schema_(schema),
        reader_(schema, {.closed = true}),
        json_(builder, {.any_whitespace = true, .whitespace_regex = "", .inside_tags = true}) {}

  // The parameters of a call.
  ExprId parameters() {
    std::vector<ExprId> choices;
    for (const Conjunction& flat : reader_.alternatives(reader_.root())) {
      if ((reader_.types(flat) & kObjectType) == 0) continue;
      choices.push_back(members(
          reader_.object(flat),
          [&](const std::string& name) { return ParserView(child_schema(&schema_, name)); }, true,
          0));
    }
    const ExprId result = builder_.choice(std::move(choices));
    json_.finish();
    if (builder_.is_never(result)) throw Error("json schema: no arguments can satisfy it");
    return result;
  }

  static ExprId element(GrammarBuilder& builder, const std::string& name, ExprId value) {
    return builder.sequence({builder.literal(kMarker + "<" + name + ">"), value,
                             builder.literal(kMarker + "</" + name + ">")});
  }

 private:
  template <typename ViewOf>
  ExprId members(const ObjectShape& shape, const ViewOf& view_of, bool may_be_empty, int depth) {
    std::vector<Expr::Edge> edges;
    // States: 2 * members passed + (any written).
    int passed = 0;
    std::int64_t required = 0;
    for (const ObjectShape::Property& property : shape.properties) {
      const ExprId value = is_tag_name(property.name)
                               ? this->value(view_of(property.name), property.value, depth)
                               : builder_.never();
      if (builder_.is_never(value) && property.required) return builder_.never();
      const ExprId tagged = element(builder_, property.name, value);
      for (const int written : {0, 1}) {
        edges.push_back({2 * passed + written, 2 * passed + 3, tagged, false});
        if (property.required) continue;
        edges.push_back({2 * passed + written, 2 * passed + 2 + written, builder_.empty(), true});
      }
      required += property.required ? 1 : 0;
      ++passed;
    }
    if (shape.min > std::max<std::int64_t>(required, may_be_empty ? 0 : 1) ||
        (shape.max && *shape.max < passed)) {
      throw Error(
          "json schema: 'minProperties' and 'maxProperties' are not supported in tool calls");
    }
    std::vector<int> accepting = {2 * passed + 1};
    if (may_be_empty) accepting.push_back(2 * passed);
    return builder_.network(2 * passed + 2, std::move(edges), std::move(accepting));
  }

  ExprId value(const ParserView& view, const Conjunction& entries, int depth) {
    if (depth > kMaxElements) return builder_.never();
    std::vector<ExprId> choices;
    for (const Conjunction& flat : reader_.alternatives(entries)) {
      reader_.tick();
      choices.push_back(flat_value(view, flat, depth));
    }
    return builder_.choice(std::move(choices));
  }

  ExprId flat_value(const ParserView& view, const Conjunction& flat, int depth) {
    std::vector<ExprId> choices;
    if (const auto values = reader_.values(flat)) {
      for (const Json& value : *values) {
        const std::string text = value.is_string() ? value.get<std::string>() : value.dump();
        if (text.find(kMarker) == std::string::npos && view.reads(text, value)) {
          choices.push_back(builder_.literal(text));
        }
      }
      return builder_.choice(std::move(choices));
    }
    const unsigned types = reader_.types(flat);
    if ((types & kNullType) && view.reads("null", nullptr)) {
      choices.push_back(builder_.literal("null"));
    }
    if (types & kBooleanType) {
      for (const bool b : {true, false}) {
        const char* text = b ? "true" : "false";
        if (view.reads(text, b)) choices.push_back(builder_.literal(text));
      }
    }
    if (types & (kIntegerType | kNumberType)) choices.push_back(number(view, flat, types));
    if (types & kStringType) choices.push_back(text(view, flat));
    if (types & kObjectType) choices.push_back(object(view, flat, depth));
    if (types & kArrayType) choices.push_back(array(view, flat, depth));
    return builder_.choice(std::move(choices));
  }

  // Without exponents, and with so few digits that the parser's double is the number.
  ExprId number(const ParserView& view, const Conjunction& flat, unsigned types) {
    const NumberBounds bounds = reader_.numbers(flat);
    CharAutomaton automaton;
    if ((types & kNumberType) && view.reads("1.5", 1.5)) {
      automaton = intersect(number_text(bounds), regex("-?[0-9]{1,15}(?:\\.[0-9]{1,15})?"));
    } else if (view.reads("7", 7)) {
      automaton = intersect(integer_text(bounds), regex("-?[0-9]{1,15}"));
    }
    return builder_.text(automaton, Encoding::kText);
  }

  ExprId text(const ParserView& view, const Conjunction& flat) {
    if (!view.reads("Zz", "Zz")) return builder_.never();
    CharAutomaton automaton = text_without(kMarker);
    if (reader_.constrains_text(flat)) automaton = intersect(automaton, reader_.text(flat));
    if (!view.only_text()) automaton = intersect(automaton, regex(kSurelyText));
    if (!automaton.empty() && automaton.states[0].accepting && !view.reads("", "")) {
      automaton = intersect(automaton, text_of_length(1, {}));
    }
    return builder_.text(automaton, Encoding::kText);
  }

  ExprId json_text(const ParserView& view, const Conjunction& flat, unsigned type) {
    static const Json kObject = {{"type", "object"}};
    static const Json kArray = {{"type", "array"}};
    if (!view.reads_json()) return builder_.never();
    Conjunction narrowed = flat;
    narrowed.push_back({type == kObjectType ? &kObject : &kArray, true});
    std::ranges::sort(narrowed);
    return json_.schema(reader_, narrowed);
  }

  ExprId object(const ParserView& view, const Conjunction& flat, int depth) {
    const ObjectShape shape = reader_.object(flat);
    if (!shape.more.empty() || !view.reads_members()) return json_text(view, flat, kObjectType);
    return members(
        shape, [&](const std::string& name) { return view.member(name); },
        view.reads("", Json::object()), depth + 1);
  }

  ExprId array(const ParserView& view, const Conjunction& flat, int depth) {
    const ArrayShape shape = reader_.array(flat);
    if (!shape.prefix.empty() || !shape.rest || !view.reads_list()) {
      return json_text(view, flat, kArrayType);
    }
    const ExprId one = value(view.item(), *shape.rest, depth + 1);
    const bool may_be_empty = shape.min == 0 && view.reads("", Json::array());
    std::vector<ExprId> choices;
    if (may_be_empty) choices.push_back(builder_.empty());
    if (!builder_.is_never(one)) {
      choices.push_back(builder_.repeat(element(builder_, "item", one),
                                        std::max<std::int64_t>(shape.min, 1),
                                        shape.max.value_or(kUnbounded)));
    }
    return builder_.choice(std::move(choices));
  }

  GrammarBuilder& builder_;
  const Json& schema_;
  SchemaReader reader_;
  JsonGrammar json_;
};

// The declared parameters in any texts.
ExprId loose_parameters(const Json* parameters, GrammarBuilder& builder) {
  const ExprId text = builder.text(text_without(kMarker), Encoding::kText);
  std::vector<ExprId> parts;
  const Json* properties =
      parameters == nullptr ? nullptr : schema_member(*parameters, "properties");
  if (properties == nullptr || !properties->is_object()) return builder.empty();
  for (const auto& [name, unused] : properties->items()) {
    if (is_tag_name(name)) {
      parts.push_back(builder.optional(ArgumentGrammar::element(builder, name, text)));
    }
  }
  return builder.sequence(std::move(parts));
}

ExprId call(const Json& function, GrammarBuilder& builder) {
  const std::string name = function["name"].get<std::string>();
  if (name.empty() || name.find_first_of("<>\"'\n ]") != std::string::npos) {
    throw Error("tools: the function name '{}' cannot be written in a tool call", name);
  }
  const Json* parameters = schema_member(function, "parameters");
  if (parameters != nullptr && parameters->is_null()) parameters = nullptr;
  ExprId arguments = builder.empty();
  if (parameters != nullptr) {
    const Json* strict = schema_member(function, "strict");
    try {
      arguments = ArgumentGrammar(*parameters, builder).parameters();
    } catch (Error& error) {
      if (strict != nullptr && *strict == true) {
        error.add_context("tools: function '" + name + "'");
        throw;
      }
      arguments = loose_parameters(parameters, builder);
    }
  }
  return builder.sequence({builder.literal(kMarker + "<invoke name=\"" + name + "\">"), arguments,
                           builder.literal(kMarker + "</invoke>\n")});
}

// Copies a schema; a reference into it is replaced by what it names unless that is being copied.
// `budget` is charged before anything is copied: a few references can name the same large text.
class Resolver {
 public:
  Resolver(const Json& root, std::size_t& budget) : root_(root), budget_(budget) {}

  Json copy(const Json& value) {
    charge(value.is_string() ? value.get_ref<const std::string&>().size() : 0);
    if (depth_ >= kMaxDepth) throw Error("nested too deeply");
    ++depth_;
    Json result = copy_inside(value);
    --depth_;
    return result;
  }

 private:
  static constexpr std::size_t kMaxOpen = 64;    // references within references
  static constexpr std::size_t kMaxDepth = 512;  // of the copy
  static constexpr std::size_t kValueBytes = 8;  // beside its text

  void charge(std::size_t text_bytes) {
    if (budget_ < text_bytes + kValueBytes) throw Error("too large");
    budget_ -= text_bytes + kValueBytes;
  }

  Json copy_inside(const Json& value) {
    if (const Json* target = target_of(value)) return copy_target(value, *target);
    if (value.is_array()) {
      Json result = Json::array();
      for (const Json& child : value) result.push_back(copy(child));
      return result;
    }
    if (!value.is_object()) return value;
    Json result = Json::object();
    for (const auto& [key, child] : value.items()) add(result, key, copy(child));
    return result;
  }

  Json copy_target(const Json& reference, const Json& target) {
    if (std::ranges::find(open_, &target) != open_.end()) {
      charge(reference.dump().size());
      return reference;
    }
    if (open_.size() >= kMaxOpen) throw Error("too many references within references");
    open_.push_back(&target);
    Json result = copy(target);
    open_.pop_back();
    if (reference.size() == 1 || !result.is_object()) return result;
    std::set<std::string> present;
    for (const auto& [key, unused] : result.items()) present.insert(key);
    for (const auto& [key, sibling] : reference.items()) {
      if (key != "$ref" && present.insert(key).second) add(result, key, copy(sibling));
    }
    return result;
  }

  // Of a key that is not there yet: a look-up would take time by the number of members.
  void add(Json& object, const std::string& key, Json value) {
    charge(key.size());
    object.get_ref<Json::object_t&>().emplace_back(key, std::move(value));
  }

  const Json* target_of(const Json& value) const {
    const Json* reference = schema_member(value, "$ref");
    if (reference == nullptr || !reference->is_string()) return nullptr;
    const std::string& text = reference->get_ref<const std::string&>();
    if (!text.starts_with("#/")) return nullptr;
    try {
      const Json* target = &root_.at(Json::json_pointer(text.substr(1)));
      return target->is_object() ? target : nullptr;
    } catch (const Json::exception&) {
      return nullptr;
    }
  }

  const Json& root_;
  std::size_t& budget_;
  std::vector<const Json*> open_;
  std::size_t depth_ = 0;
};

}  // namespace

Json with_references_resolved(const Json& tools) {
  Json result = tools;
  if (!tools.is_array()) return result;
  std::size_t budget = kMaxStructuredOutputBytes;  // of all tools together
  for (Json& tool : result) {
    const Json* function = schema_member(tool, "function");
    const Json* parameters = function == nullptr ? nullptr : schema_member(*function, "parameters");
    if (parameters == nullptr || !parameters->is_object()) continue;
    try {
      tool["function"]["parameters"] = Resolver(*parameters, budget).copy(*parameters);
    } catch (const Error&) {  // stays as it is
    }
  }
  return result;
}

RuleId tool_grammar(const Json& tools, const ToolGrammarOptions& options, GrammarBuilder& builder) {
  std::vector<ExprId> calls;
  for (const Json& tool : tools) {
    const Json& function = tool["function"];
    if (options.name.empty() || function["name"] == options.name) {
      calls.push_back(call(function, builder));
    }
  }
  const bool one = !options.parallel || !options.name.empty();
  const ExprId block =
      builder.sequence({builder.literal(kMarker + "<tool_call>\n"),
                        builder.repeat(builder.choice(std::move(calls)), 1, one ? 1 : kUnbounded),
                        builder.literal(kMarker + "</tool_call>")});
  const RuleId root = builder.add_rule("tool calls");
  if (options.mode == ToolMode::kRequired) {
    builder.define(root, block);
  } else {
    const ExprId text = builder.text(text_without(kMarker + "<tool_call>"), Encoding::kText);
    builder.define(root, builder.sequence({text, builder.optional(block)}));
  }
  return root;
}

}  // namespace quern::grammar
