// See matcher.h.
#include "quern/grammar/matcher.h"

#include <algorithm>
#include <functional>

#include "quern/base/error.h"
#include "quern/grammar/index.h"

namespace quern::grammar {
StackPool::StackPool() : begin_{0, 0, 0}, chain_{-1, -1}, buckets_(64, -1) {}

std::span<const StackPool::Frame> StackPool::frames(int node) const {
  return std::span(frames_).subspan(begin_[index(node)],
                                    begin_[index(node) + 1] - begin_[index(node)]);
}

std::size_t StackPool::bucket(std::span<const Frame> frames) const {
  std::uint64_t hash = frames.size();
  for (const Frame& frame : frames) {
    hash = (hash ^ (static_cast<std::uint64_t>(frame.state) << 32 ^
                    static_cast<std::uint32_t>(frame.stack))) *
           0x9E3779B97F4A7C15U;
    hash ^= hash >> 29;
  }
  return static_cast<std::size_t>(hash) & (buckets_.size() - 1);
}

int StackPool::intern(std::span<const Frame> frames) {
  std::size_t at = bucket(frames);
  for (int node = buckets_[at]; node >= 0; node = chain_[index(node)]) {
    if (std::ranges::equal(this->frames(node), frames)) return node;
  }
  if (chain_.size() > buckets_.size()) {
    grow();
    at = bucket(frames);
  }
  const int node = static_cast<int>(chain_.size());
  frames_.insert(frames_.end(), frames.begin(), frames.end());
  begin_.push_back(frames_.size());
  chain_.push_back(std::exchange(buckets_[at], node));
  return node;
}

// Nodes are put in again in their order, so that the newest stays first in its bucket.
void StackPool::grow() {
  buckets_.assign(buckets_.size() * 2, -1);
  for (int node = kLocal + 1; node < static_cast<int>(chain_.size()); ++node) {
    chain_[index(node)] = std::exchange(buckets_[bucket(frames(node))], node);
  }
}

void StackPool::release(std::size_t mark) {
  while (chain_.size() > mark) {
    const int node = static_cast<int>(chain_.size()) - 1;
    buckets_[bucket(frames(node))] = chain_.back();
    chain_.pop_back();
    begin_.pop_back();
    frames_.resize(begin_.back());
  }
}

Stepper::Stepper(const Automaton& automaton)
    : automaton_(automaton),
      pending_(index(automaton.num_rules())),
      ranked_(index(automaton.num_rules())) {
  for (int rule = 0; rule < automaton.num_rules(); ++rule) {
    ranked_[index(automaton.rule(rule).rank)] = rule;
  }
}

std::vector<Configuration> Stepper::start() {
  std::vector<Configuration> set = {{automaton_.start(), StackPool::kRoot}};
  close(set);
  return set;
}

void Stepper::add(std::vector<Configuration>& set, Configuration configuration) {
  if (std::ranges::find(set, configuration) != set.end()) return;
  if (set.size() >= kMaxConfigurations) {
    for (auto& frames : pending_) frames.clear();
    waiting_.clear();
    throw Error("the grammar is too ambiguous: more than {} ways to read the text so far",
                kMaxConfigurations);
  }
  set.push_back(configuration);
}

void Stepper::advance(std::span<const Configuration> from, std::uint8_t byte,
                      std::vector<Configuration>& to) {
  to.clear();
  for (const Configuration& c : from) {
    const int state = automaton_.next(c.state, byte);
    if (state != Automaton::kDead) add(to, {state, c.stack});
  }
  // Rules that have ended return; what is added returns in its turn.
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (!automaton_.accepting(to[i].state)) continue;
    for (std::size_t k = 0; k < pool_.frames(to[i].stack).size(); ++k) {
      add(to, pool_.frames(to[i].stack)[k]);
    }
  }
  close(to);
}

void Stepper::leave(std::span<const Configuration> from, std::vector<Configuration>& to) {
  to.clear();
  for (const Configuration& c : from) {
    for (std::size_t k = 0; k < pool_.frames(c.stack).size(); ++k) {
      add(to, pool_.frames(c.stack)[k]);
    }
  }
  for (std::size_t i = 0; i < to.size(); ++i) {
    if (!automaton_.accepting(to[i].state)) continue;
    for (std::size_t k = 0; k < pool_.frames(to[i].stack).size(); ++k) {
      add(to, pool_.frames(to[i].stack)[k]);
    }
  }
  close(to);
}

// Calls, callers first, so that all places that call a rule here end up in one node. A rule that
// was entered here and may be empty does not return: its callers have an edge past it.
void Stepper::close(std::vector<Configuration>& set) {
  const auto note_calls = [&](Configuration c) {
    for (const Automaton::Call& call : automaton_.calls(c.state)) {
      const int rank = automaton_.rule(call.rule).rank;
      if (pending_[index(rank)].empty()) {
        waiting_.push_back(rank);
        std::ranges::push_heap(waiting_, std::greater());
      }
      pending_[index(rank)].push_back({call.return_state, c.stack});
    }
  };
  std::size_t noted = 0;
  for (;;) {
    for (; noted < set.size(); ++noted) note_calls(set[noted]);
    if (waiting_.empty()) break;
    std::ranges::pop_heap(waiting_, std::greater());
    const int rank = waiting_.back();
    waiting_.pop_back();
    enter_rule(ranked_[index(rank)], set);
  }
  std::ranges::sort(set);
}

void Stepper::enter_rule(int rule, std::vector<Configuration>& set) {
  auto& frames = pending_[index(automaton_.rule(rule).rank)];
  scratch_.clear();
  for (const StackPool::Frame& frame : frames) {
    // A call in last place needs no frame of its own: right recursion keeps its depth.
    const bool last = automaton_.final_only(frame.state) && frame.stack > StackPool::kLocal;
    if (!last) {
      scratch_.push_back(frame);
      continue;
    }
    const auto outer = pool_.frames(frame.stack);
    scratch_.insert(scratch_.end(), outer.begin(), outer.end());
  }
  frames.clear();
  std::ranges::sort(scratch_);
  scratch_.erase(std::unique(scratch_.begin(), scratch_.end()), scratch_.end());
  add(set, {automaton_.rule(rule).start, pool_.intern(scratch_)});
}

bool Matcher::accept(std::string_view bytes) {
  saved_ = set_;
  for (const char c : bytes) {
    stepper_.advance(set_, static_cast<std::uint8_t>(c), next_);
    set_.swap(next_);
    if (set_.empty()) {
      set_ = saved_;
      return false;
    }
  }
  return true;
}

bool Matcher::can_end() const {
  return std::ranges::any_of(set_, [&](const Configuration& c) {
    return c.stack == StackPool::kRoot && stepper_.automaton().accepting(c.state);
  });
}

}  // namespace quern::grammar
