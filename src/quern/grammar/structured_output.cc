// See structured_output.h.
#include "quern/grammar/structured_output.h"

#include <fmt/format.h>

#include <utility>

#include "quern/base/error.h"
#include "quern/grammar/ebnf.h"
#include "quern/grammar/json_grammar.h"
#include "quern/grammar/regex_grammar.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxEntries = 32;
constexpr std::size_t kMaxCacheBytes = std::size_t{256} << 20;  // of tables
constexpr std::chrono::milliseconds kWarmTime{50};

void check_size(std::size_t bytes, std::string_view what) {
  if (bytes > kMaxStructuredOutputBytes) {
    throw Error("{} has {} bytes; at most {} are allowed", what, bytes, kMaxStructuredOutputBytes);
  }
}

Automaton compile_body(GrammarBuilder& builder, ExprId body) {
  const RuleId root = builder.add_rule("root");
  builder.define(root, body);
  return compile(builder, root);
}

Automaton compile_json(const StructuredOutput& output) {
  GrammarBuilder builder;
  JsonGrammar json(builder, {.any_whitespace = output.any_whitespace,
                             .whitespace_regex = output.whitespace_regex});
  if (output.kind == StructuredOutput::Kind::kJsonObject) {
    return compile_body(builder, json.any_object());
  }
  check_size(output.schema.dump().size(), "the JSON schema");
  SchemaReader reader(output.schema, {});
  const ExprId body = json.schema(reader);
  json.finish();
  return compile_body(builder, body);
}

Automaton compile_choice(const StructuredOutput& output) {
  GrammarBuilder builder;
  std::size_t bytes = 0;
  std::vector<ExprId> choices;
  for (const std::string& choice : output.choices) {
    bytes += choice.size();
    choices.push_back(builder.literal(choice));
  }
  check_size(bytes, "choice");
  return compile_body(builder, builder.choice(std::move(choices)));
}

std::string key_of(const StructuredOutput& output) {
  const ToolGrammarOptions& tools = output.tool_options;
  return Json{static_cast<int>(output.kind),
              output.schema,
              output.text,
              output.choices,
              output.any_whitespace,
              output.whitespace_regex,
              output.tools,
              static_cast<int>(tools.mode),
              tools.name,
              tools.parallel}
      .dump();
}

}  // namespace

Automaton compile(const StructuredOutput& output) {
  switch (output.kind) {
    case StructuredOutput::Kind::kJsonSchema:
    case StructuredOutput::Kind::kJsonObject:
      return compile_json(output);
    case StructuredOutput::Kind::kRegex: {
      GrammarBuilder builder;
      return compile_body(
          builder, builder.text(regex_automaton(output.text, RegexMatch::kWhole), Encoding::kText));
    }
    case StructuredOutput::Kind::kChoice:
      return compile_choice(output);
    case StructuredOutput::Kind::kGrammar: {
      check_size(output.text.size(), "the grammar");
      GrammarBuilder builder;
      const RuleId root = parse_ebnf(output.text, builder);
      return compile(builder, root);
    }
    case StructuredOutput::Kind::kToolCalls: {
      check_size(output.tools.dump().size(), "tools");
      GrammarBuilder builder;
      const RuleId root = tool_grammar(output.tools, output.tool_options, builder);
      return compile(builder, root);
    }
  }
  throw Error("unknown kind of structured output");
}

std::shared_ptr<const TokenGrammar> GrammarCache::get(const StructuredOutput& output) {
  const std::string key = key_of(output);
  check_size(key.size() / 2, "the structured output");  // keys are kept
  if (auto known = find(key)) return known;
  const std::lock_guard lock(compiling_);
  if (auto known = find(key)) return known;
  auto grammar = std::make_shared<const TokenGrammar>(compile(output), trie_);
  grammar->warm(kWarmTime);
  keep(key, grammar);
  return grammar;
}

std::shared_ptr<const TokenGrammar> GrammarCache::known(const StructuredOutput& output) {
  return find(key_of(output));
}

std::shared_ptr<const TokenGrammar> GrammarCache::find(const std::string& key) {
  const std::lock_guard lock(mutex_);
  const auto found = places_.find(key);
  if (found == places_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found->second);
  return entries_.front().grammar;
}

void GrammarCache::keep(const std::string& key, std::shared_ptr<const TokenGrammar> grammar) {
  const std::lock_guard lock(mutex_);
  ++compiled_;
  bytes_ += grammar->bytes() + key.size();
  entries_.push_front({key, std::move(grammar)});
  places_[key] = entries_.begin();
  while (entries_.size() > kMaxEntries || (bytes_ > kMaxCacheBytes && entries_.size() > 1)) {
    const Entry& oldest = entries_.back();
    bytes_ -= oldest.grammar->bytes() + oldest.key.size();
    places_.erase(oldest.key);
    entries_.pop_back();
  }
}

GrammarCache::Stats GrammarCache::stats() const {
  const std::lock_guard lock(mutex_);
  return {entries_.size(), compiled_};
}

}  // namespace quern::grammar
