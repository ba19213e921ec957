// See token_mask.h.
//
// Cost: a local walks the trie once, bytes looked up in a table while its rule calls no other:
// about 2 ns a node, once a state. A mask then is the union of the locals of the states that the
// sequence is in, and short walks behind the places where a rule ended: O(vocabulary / 32 + those).
// Where an automaton has many states that only long texts tell apart (strings of a bounded length,
// long lists), the trie is walked in bands of depth, and states of a class share a band's part.
#include "quern/grammar/token_mask.h"

#include <algorithm>
#include <chrono>

#include "quern/base/error.h"
#include "quern/grammar/index.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxLocalBytes = std::size_t{16} << 20;  // of one grammar, and again of parts
// Looks at the automaton's table that its classes may cost: a second of 200,000 states would be too
// much, and what is bounded by a few thousand characters needs less.
constexpr std::size_t kMaxClassWork = 20'000'000;

// Follows the tokens below a node. A level holds what is left after the bytes up to a depth: one
// state as long as nothing else is needed, else a set.
class TrieWalk {
 public:
  TrieWalk(Stepper& stepper, const TokenTrie& trie)
      : stepper_(stepper), trie_(trie), levels_(index(trie.max_depth()) + 1) {}

  // Calls take(id) for each token of more than `low` bytes and at most `high`, and end(node) for
  // each such node at which the rule of a kLocal configuration can have ended; with `low` 0 for
  // `node` itself too.
  template <typename Take, typename End>
  void run(int node, std::span<const Configuration> set, int low, int high, Take&& take,
           End&& end) {
    const auto nodes = trie_.nodes();
    const int base = nodes[index(node)].depth;
    put(levels_[index(base)], set);
    if (low == 0 && ended(levels_[index(base)])) end(node);
    const int last = nodes[index(node)].end;
    for (int i = node + 1; i < last;) {
      const TokenTrie::Node& at = nodes[index(i)];
      Level& level = levels_[index(at.depth)];
      if (at.reach <= low || !step(levels_[index(at.depth) - 1], at.byte, level)) {
        i = at.end;
        continue;
      }
      if (at.depth > low) {
        for (int t = at.first_token; t < nodes[index(i) + 1].first_token; ++t) {
          take(trie_.tokens()[index(t)]);
        }
        if (at.end > i + 1 && ended(level)) end(i);
      }
      i = at.depth == high ? at.end : i + 1;
    }
  }

 private:
  struct Level {
    bool simple = false;  // one configuration, in a rule looked at by itself, that calls nothing
    int state = 0;
    std::vector<Configuration> set;
    std::size_t mark = 0;  // of the stack pool, when the set was made
  };

  void put(Level& level, std::span<const Configuration> set) {
    level.mark = stepper_.pool().mark();
    level.simple = set.size() == 1 && set[0].stack == StackPool::kLocal &&
                   stepper_.automaton().calls(set[0].state).empty();
    if (level.simple) {
      level.state = set[0].state;
    } else {
      level.set.assign(set.begin(), set.end());
    }
  }

  bool step(const Level& from, std::uint8_t byte, Level& to) {
    const Automaton& automaton = stepper_.automaton();
    if (from.simple) {
      const int state = automaton.next(from.state, byte);
      if (state == Automaton::kDead) return false;
      to.simple = automaton.calls(state).empty();
      to.mark = from.mark;
      to.state = state;
      if (to.simple) return true;
      stepper_.pool().release(from.mark);
      to.set.assign(1, {state, StackPool::kLocal});
      stepper_.close(to.set);
      to.mark = stepper_.pool().mark();
      return true;
    }
    stepper_.pool().release(from.mark);  // what sisters of this node have left
    stepper_.advance(from.set, byte, to.set);
    to.simple = false;
    to.mark = stepper_.pool().mark();
    return !to.set.empty();
  }

  bool ended(const Level& level) const {
    const Automaton& automaton = stepper_.automaton();
    if (level.simple) return automaton.accepting(level.state);
    return std::ranges::any_of(level.set, [&](const Configuration& c) {
      return c.stack == StackPool::kLocal && automaton.accepting(c.state);
    });
  }

  Stepper& stepper_;
  const TokenTrie& trie_;
  std::vector<Level> levels_;
};

}  // namespace

// Bands are only worth their walks where they make classes much larger.
TokenGrammar::TokenGrammar(Automaton automaton, std::shared_ptr<const TokenTrie> trie)
    : automaton_(std::move(automaton)), trie_(std::move(trie)) {
  std::vector<int> lengths;
  for (const int length : {4, 8, 16, 32, 64}) {
    if (length < trie_->max_depth()) lengths.push_back(length);
  }
  lengths.push_back(std::max(1, trie_->max_depth()));
  const StateClasses all(automaton_, lengths, kMaxClassWork);
  const int most = all.count(lengths.size() - 1);
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    if (i + 1 == lengths.size() || all.count(i) * 2 < most) bands_.push_back(lengths[i]);
  }
  classes_ = std::make_unique<const StateClasses>(automaton_, bands_, kMaxClassWork);
}

template <typename Value, typename Make>
std::shared_ptr<const Value> TokenGrammar::kept(Cache<Value>& cache, std::uint64_t key,
                                                Make&& make) const {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = cache.values.find(key); found != cache.values.end()) {
      return found->second;
    }
  }
  std::shared_ptr<const Value> made = make();
  const std::lock_guard lock(mutex_);
  const auto [place, added] = cache.values.emplace(key, made);
  if (!added) return place->second;
  cache.oldest_first.push_back(key);
  cache.bytes += made->bytes();
  while (cache.bytes > kMaxLocalBytes && cache.oldest_first.size() > 1) {
    const auto old = cache.values.find(cache.oldest_first.front());
    cache.bytes -= old->second->bytes();
    cache.values.erase(old);
    cache.oldest_first.pop_front();
  }
  return made;
}

std::shared_ptr<const TokenGrammar::Local> TokenGrammar::local(int state) const {
  const auto key = static_cast<std::uint64_t>(classes_->of(state, bands_.size() - 1));
  return kept(locals_, key, [&] { return compute(state); });
}

std::shared_ptr<const TokenGrammar::Local> TokenGrammar::compute(int state) const {
  auto local = std::make_shared<Local>();
  local->mask.assign(mask_words(trie_->vocab_size()), 0);
  for (std::size_t band = 0; band < bands_.size(); ++band) {
    const auto key = static_cast<std::uint64_t>(band) << 32 |
                     static_cast<std::uint32_t>(classes_->of(state, band));
    const auto part = kept(parts_, key, [&] { return compute_part(state, band); });
    for (const std::int32_t token : part->tokens) mask_set(local->mask, token);
    for (std::size_t word = 0; word < part->mask.size(); ++word) {
      local->mask[word] |= part->mask[word];
    }
    local->ends.insert(local->ends.end(), part->ends.begin(), part->ends.end());
  }
  return local;
}

std::shared_ptr<const TokenGrammar::Part> TokenGrammar::compute_part(int state,
                                                                     std::size_t band) const {
  auto part = std::make_shared<Part>();
  Stepper stepper(automaton_);
  // What the state's calls lead to is found by their own configurations, which any real set holds.
  const std::vector<Configuration> set = {{state, StackPool::kLocal}};
  TrieWalk walk(stepper, *trie_);
  walk.run(
      0, set, band == 0 ? 0 : bands_[band - 1], bands_[band],
      [&](std::int32_t token) { part->tokens.push_back(token); },
      [&](std::int32_t node) { part->ends.push_back(node); });
  if (const std::size_t words = mask_words(trie_->vocab_size()); part->tokens.size() > words) {
    part->mask.assign(words, 0);
    for (const std::int32_t token : part->tokens) mask_set(part->mask, token);
    part->tokens = {};
  }
  return part;
}

void TokenGrammar::warm(std::chrono::milliseconds budget) const {
  const auto deadline = std::chrono::steady_clock::now() + budget;
  Stepper stepper(automaton_);
  for (const Configuration& c : stepper.start()) local(c.state);
  const std::size_t local_size = mask_words(trie_->vocab_size()) * sizeof(MaskWord);
  const auto room = static_cast<int>(kMaxLocalBytes / 2 / std::max<std::size_t>(local_size, 1));
  for (int state = 0; state < std::min(automaton_.num_states(), room); ++state) {
    if (std::chrono::steady_clock::now() > deadline) return;
    local(state);
  }
}

std::size_t TokenGrammar::bytes() const {
  return automaton_.bytes() + index(automaton_.num_states()) * bands_.size() * sizeof(int);
}

TokenMatcher::TokenMatcher(std::shared_ptr<const TokenGrammar> grammar)
    : grammar_(std::move(grammar)), matcher_(grammar_->automaton()) {}

bool TokenMatcher::fill(std::span<MaskWord> mask) {
  QUERN_CHECK(mask.size() == mask_words(grammar_->trie().vocab_size()));
  const auto set = matcher_.configurations();
  for (const Known& known : known_) {
    if (!std::ranges::equal(known.set, set)) continue;
    std::ranges::copy(known.mask, mask.begin());
    return known.any;
  }
  const bool any = compute(mask);
  if (known_.size() < kKnown) known_.emplace_back();
  Known& known = known_[next_known_];
  next_known_ = (next_known_ + 1) % kKnown;
  known.set.assign(set.begin(), set.end());
  known.mask.assign(mask.begin(), mask.end());
  known.any = any;
  return any;
}

bool TokenMatcher::compute(std::span<MaskWord> mask) {
  std::ranges::fill(mask, 0);
  const auto set = matcher_.configurations();
  for (std::size_t i = 0; i < set.size();) {  // sorted: configurations of a state are neighbours
    const int state = set[i].state;
    same_state_.clear();
    for (; i < set.size() && set[i].state == state; ++i) same_state_.push_back(set[i]);
    const auto local = grammar_->local(state);
    for (std::size_t word = 0; word < mask.size(); ++word) mask[word] |= local->mask[word];
    add_surroundings(*local, mask);
  }
  return std::ranges::any_of(mask, [](MaskWord word) { return word != 0; });
}

// The configurations of same_state_ return at the local's ends.
void TokenMatcher::add_surroundings(const TokenGrammar::Local& local, std::span<MaskWord> mask) {
  if (local.ends.empty()) return;
  Stepper& stepper = matcher_.stepper();
  const std::size_t mark = stepper.pool().mark();
  stepper.leave(same_state_, outside_);
  if (!outside_.empty()) {
    TrieWalk walk(stepper, grammar_->trie());
    for (const std::int32_t node : local.ends) {
      walk.run(
          node, outside_, 0, grammar_->trie().max_depth(),
          [mask](std::int32_t token) { mask_set(mask, token); }, [](std::int32_t) {});
    }
  }
  stepper.pool().release(mark);
}

}  // namespace quern::grammar
