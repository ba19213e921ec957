// Which tokens may come next: a grammar over a vocabulary, and masks of it.
// Must never differ from trying each token's bytes; only be faster.
// Proved by tests/grammar/token_mask_test.cc (against brute force).
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "quern/grammar/automaton.h"
#include "quern/grammar/matcher.h"
#include "quern/grammar/state_classes.h"
#include "quern/grammar/token_trie.h"

namespace quern::grammar {

// A bit a token, in words of 32.
using MaskWord = std::uint32_t;
inline std::size_t mask_words(int vocab_size) {
  return (static_cast<std::size_t>(vocab_size) + 31) / 32;
}
inline bool mask_has(std::span<const MaskWord> mask, std::int32_t token) {
  return (mask[static_cast<std::size_t>(token) / 32] >> (token % 32) & 1) != 0;
}
inline void mask_set(std::span<MaskWord> mask, std::int32_t token) {
  mask[static_cast<std::size_t>(token) / 32] |= MaskWord{1} << (token % 32);
}

// A compiled grammar for one vocabulary, shared by all sequences that use it. Thread-safe: what is
// known about a state whatever surrounds it is computed once and kept, up to a number of bytes.
class TokenGrammar {
 public:
  TokenGrammar(Automaton automaton, std::shared_ptr<const TokenTrie> trie);

  const Automaton& automaton() const { return automaton_; }
  const TokenTrie& trie() const { return *trie_; }

  // Of a state, looked at by itself: the tokens that stay inside its rule, and the nodes of the
  // trie at which the rule can have ended, below which the surroundings decide.
  struct Local {
    std::vector<MaskWord> mask;
    std::vector<std::int32_t> ends;

    std::size_t bytes() const { return (mask.size() + ends.size()) * sizeof(std::int32_t); }
  };
  std::shared_ptr<const Local> local(int state) const;

  // Computes locals ahead, the start first, for at most `budget`.
  void warm(std::chrono::milliseconds budget) const;
  std::size_t bytes() const;  // without the locals, which are bounded

 private:
  // What a local says of tokens of some lengths, which a class of states shares.
  struct Part {
    std::vector<std::int32_t> tokens;  // or, where there are many,
    std::vector<MaskWord> mask;
    std::vector<std::int32_t> ends;

    std::size_t bytes() const {
      return (tokens.size() + mask.size() + ends.size()) * sizeof(std::int32_t);
    }
  };
  // Kept up to a number of bytes; the oldest goes first.
  template <typename Value>
  struct Cache {
    std::unordered_map<std::uint64_t, std::shared_ptr<const Value>> values;
    std::deque<std::uint64_t> oldest_first;
    std::size_t bytes = 0;
  };
  template <typename Value, typename Make>
  std::shared_ptr<const Value> kept(Cache<Value>& cache, std::uint64_t key, Make&& make) const;

  std::shared_ptr<const Local> compute(int state) const;
  std::shared_ptr<const Part> compute_part(int state, std::size_t band) const;

  const Automaton automaton_;
  const std::shared_ptr<const TokenTrie> trie_;
  std::vector<int> bands_;  // the longest tokens of each, ascending
  std::unique_ptr<const StateClasses> classes_;

  mutable std::mutex mutex_;
  mutable Cache<Local> locals_;  // by class for all lengths
  mutable Cache<Part> parts_;    // by band and class
};

// One sequence under a grammar. Not thread-safe.
class TokenMatcher {
 public:
  explicit TokenMatcher(std::shared_ptr<const TokenGrammar> grammar);

  bool accept(std::string_view bytes) { return matcher_.accept(bytes); }
  bool can_end() const { return matcher_.can_end(); }
  // Sets the bits of the tokens that may come next, and no other; false when there are none.
  // Throws Error when the grammar is too ambiguous.
  bool fill(std::span<MaskWord> mask);

 private:
  bool compute(std::span<MaskWord> mask);
  void add_surroundings(const TokenGrammar::Local& local, std::span<MaskWord> mask);

  struct Known {
    std::vector<Configuration> set;
    std::vector<MaskWord> mask;
    bool any = false;
  };
  static constexpr std::size_t kKnown = 4;

  std::shared_ptr<const TokenGrammar> grammar_;
  Matcher matcher_;
  std::vector<Known> known_;  // of the last situations, which tend to come back
  std::size_t next_known_ = 0;
  std::vector<Configuration> same_state_, outside_;
};

}  // namespace quern::grammar
