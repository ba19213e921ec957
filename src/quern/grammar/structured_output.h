// What an answer has to look like, and its compilation for a vocabulary, with a cache.
// Must never take unbounded time or memory: what is too large or too slow is an Error.
// Proved by tests/grammar/structured_output_test.cc.
#pragma once

#include <cstddef>
#include <list>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "quern/base/json.h"
#include "quern/grammar/token_mask.h"
#include "quern/grammar/tool_grammar.h"

namespace quern::grammar {

struct StructuredOutput {
  enum class Kind { kJsonSchema, kJsonObject, kRegex, kChoice, kGrammar, kToolCalls };

  Kind kind = Kind::kJsonObject;
  Json schema;                       // kJsonSchema
  std::string text;                  // kRegex, kGrammar
  std::vector<std::string> choices;  // kChoice
  bool any_whitespace = true;        // kJsonSchema, kJsonObject
  std::string whitespace_regex;      // kJsonSchema, kJsonObject
  Json tools;                        // kToolCalls
  ToolGrammarOptions tool_options;   // kToolCalls
};

// Bytes of a schema, a grammar, all choices, or all tools.
inline constexpr std::size_t kMaxStructuredOutputBytes = std::size_t{512} << 10;

// Throws Error that says what is wrong or not supported.
Automaton compile(const StructuredOutput& output);

// Compiles off the engine's thread, in the caller's, and keeps the results, least recently used out
// first. Equal requests that come at the same time compile once, and one compilation runs at a
// time. Thread-safe.
class GrammarCache {
 public:
  explicit GrammarCache(std::shared_ptr<const TokenTrie> trie) : trie_(std::move(trie)) {}

  std::shared_ptr<const TokenGrammar> get(const StructuredOutput& output);
  // What is there already, or null; takes no time.
  std::shared_ptr<const TokenGrammar> known(const StructuredOutput& output);

  struct Stats {
    std::size_t entries = 0;
    std::size_t compiled = 0;
  };
  Stats stats() const;

 private:
  struct Entry {
    std::string key;
    std::shared_ptr<const TokenGrammar> grammar;
  };
  std::shared_ptr<const TokenGrammar> find(const std::string& key);
  void keep(const std::string& key, std::shared_ptr<const TokenGrammar> grammar);

  const std::shared_ptr<const TokenTrie> trie_;
  std::mutex compiling_;  // held while compiling
  mutable std::mutex mutex_;
  std::list<Entry> entries_;  // newest first
  std::unordered_map<std::string, std::list<Entry>::iterator> places_;
  std::size_t bytes_ = 0;
  std::size_t compiled_ = 0;
};

}  // namespace quern::grammar
