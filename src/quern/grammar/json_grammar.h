// JSON texts as grammars: any value, any object, and what a JSON Schema describes.
// Must never describe a text that the schema refuses.
// Proved by tests/grammar/json_schema_test.cc and json_schema_suite_test.cc.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "quern/grammar/expression.h"
#include "quern/grammar/schema_reader.h"

namespace quern::grammar {

struct JsonStyle {
  // Between tokens: nothing or a blank, or a line break and an indentation of up to 20. Not more,
  // because models that may write white space without end sometimes do.
  bool any_whitespace = true;      // else ", " and ": " as json.dumps writes them
  std::string whitespace_regex{};  // instead, when not empty
  bool inside_tags = false;        // no < is written as it is, so that no tag can appear
};

// Members in the order of `properties`, others behind them. Not thread-safe.
class JsonGrammar {
 public:
  JsonGrammar(GrammarBuilder& builder, const JsonStyle& style);

  ExprId any_value();
  ExprId any_object();
  // The reader outlives the grammar: rules are made by finish().
  ExprId schema(SchemaReader& reader, const Conjunction& entries);
  ExprId schema(SchemaReader& reader) { return schema(reader, reader.root()); }
  // Defines what schema() has promised. Call once, at the end.
  void finish();

  ExprId value_literal(const Json& value);

 private:
  struct Promise {
    SchemaReader* reader;
    Conjunction entries;
    RuleId rule;
  };

  ExprId any_string();
  ExprId string_char();
  ExprId key(const std::string& name);
  ExprId build(SchemaReader& reader, const Conjunction& entries);
  ExprId build_flat(SchemaReader& reader, const Conjunction& flat);
  ExprId object(SchemaReader& reader, const ObjectShape& shape);
  ExprId array(SchemaReader& reader, const ArrayShape& shape);
  Encoding encoding() const {
    return style_.inside_tags ? Encoding::kJsonInsideTags : Encoding::kJson;
  }

  GrammarBuilder& builder_;
  const JsonStyle style_;
  ExprId space_, comma_, colon_;
  std::optional<RuleId> any_value_, any_object_;
  std::optional<ExprId> any_string_;
  std::map<std::pair<SchemaReader*, Conjunction>, RuleId> rules_;
  std::vector<Promise> promises_;
  std::size_t kept_ = 0;  // promises
};

// States that an object with minProperties or maxProperties may need.
inline constexpr std::int64_t kMaxObjectStates = 40000;

}  // namespace quern::grammar
