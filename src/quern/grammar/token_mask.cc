// See token_mask.h.
//
// Cost: a local walks the trie once, bytes looked up in a table while its rule calls no other:
// about 2 ns a node, once a state. A mask then is the union of the locals of the states that the
// sequence is in, and short walks behind the places where a rule ended: O(vocabulary / 32 + those).
#include "quern/grammar/token_mask.h"

#include <algorithm>
#include <chrono>

#include "quern/base/error.h"

namespace quern::grammar {
namespace {

constexpr std::size_t kMaxLocalBytes = std::size_t{16} << 20;  // of one grammar

std::size_t index(int i) { return static_cast<std::size_t>(i); }

// Follows the tokens below a node. A level holds what is left after the bytes up to a depth: one
// state as long as nothing else is needed, else a set.
class TrieWalk {
 public:
  TrieWalk(Stepper& stepper, const TokenTrie& trie, std::span<MaskWord> mask)
      : stepper_(stepper), trie_(trie), mask_(mask), levels_(index(trie.max_depth()) + 1) {}

  // Nodes at which the rule of a kLocal configuration can have ended go to `ends`, if given.
  void run(int node, std::span<const Configuration> set, std::vector<std::int32_t>* ends) {
    const auto nodes = trie_.nodes();
    const int base = nodes[index(node)].depth;
    put(levels_[index(base)], set);
    if (ends != nullptr && ended(levels_[index(base)])) ends->push_back(node);
    const int end = nodes[index(node)].end;
    for (int i = node + 1; i < end;) {
      const TokenTrie::Node& at = nodes[index(i)];
      Level& level = levels_[index(at.depth)];
      if (!step(levels_[index(at.depth) - 1], at.byte, level)) {
        i = at.end;
        continue;
      }
      for (int t = at.first_token; t < nodes[index(i) + 1].first_token; ++t) {
        mask_set(mask_, trie_.tokens()[index(t)]);
      }
      if (ends != nullptr && at.end > i + 1 && ended(level)) ends->push_back(i);
      ++i;
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
  std::span<MaskWord> mask_;
  std::vector<Level> levels_;
};

}  // namespace

TokenGrammar::TokenGrammar(Automaton automaton, std::shared_ptr<const TokenTrie> trie)
    : automaton_(std::move(automaton)), trie_(std::move(trie)) {}

std::shared_ptr<const TokenGrammar::Local> TokenGrammar::local(int state) const {
  {
    const std::lock_guard lock(mutex_);
    if (const auto found = locals_.find(state); found != locals_.end()) return found->second;
  }
  auto computed = compute(state);
  const std::size_t size =
      computed->mask.size() * sizeof(MaskWord) + computed->ends.size() * sizeof(std::int32_t);
  const std::lock_guard lock(mutex_);
  const auto [place, added] = locals_.emplace(state, computed);
  if (!added) return place->second;
  oldest_first_.push_back(state);
  local_bytes_ += size;
  while (local_bytes_ > kMaxLocalBytes && oldest_first_.size() > 1) {
    const auto old = locals_.find(oldest_first_.front());
    local_bytes_ -= old->second->mask.size() * sizeof(MaskWord) +
                    old->second->ends.size() * sizeof(std::int32_t);
    locals_.erase(old);
    oldest_first_.pop_front();
  }
  return computed;
}

std::shared_ptr<const TokenGrammar::Local> TokenGrammar::compute(int state) const {
  auto local = std::make_shared<Local>();
  local->mask.assign(mask_words(trie_->vocab_size()), 0);
  Stepper stepper(automaton_);
  // What the state's calls lead to is found by their own configurations, which any real set holds.
  const std::vector<Configuration> set = {{state, StackPool::kLocal}};
  TrieWalk walk(stepper, *trie_, local->mask);
  walk.run(0, set, &local->ends);
  return local;
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

std::size_t TokenGrammar::bytes() const { return automaton_.bytes(); }

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
    TrieWalk walk(stepper, grammar_->trie(), mask);
    for (const std::int32_t node : local.ends) walk.run(node, outside_, nullptr);
  }
  stepper.pool().release(mark);
}

}  // namespace quern::grammar
