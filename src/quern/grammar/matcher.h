// Follows a text through an automaton with a stack: all ways to read it at once.
// Must never need more than a bounded number of them: accept() throws Error instead.
// Proved by tests/grammar/automaton_test.cc (against a naive matcher).
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/grammar/automaton.h"

namespace quern::grammar {

// One way to read the text so far: in `state`, and where its rule returns to.
struct Configuration {
  int state;
  int stack;
  auto operator<=>(const Configuration&) const = default;
};

// Where rules return to. A node holds all places that one call comes from (state to return to, and
// its own node); equal nodes are one, so that equal situations have equal numbers.
class StackPool {
 public:
  static constexpr int kRoot = 0;   // the end of the root rule: end of the text
  static constexpr int kLocal = 1;  // a rule looked at by itself: its end is reported
  using Frame = Configuration;

  StackPool();
  int intern(std::span<const Frame> frames);  // sorted, unique
  std::span<const Frame> frames(int node) const;

  // Nodes made since a mark() can be dropped.
  std::size_t mark() const { return chain_.size(); }
  void release(std::size_t mark);

 private:
  std::size_t bucket(std::span<const Frame> frames) const;
  void grow();

  std::vector<Frame> frames_;
  std::vector<std::size_t> begin_;  // [nodes + 1]
  std::vector<int> chain_;          // [nodes]: older node of the same bucket
  std::vector<int> buckets_;        // newest node, or -1
};

// Sets of configurations, sorted. Not thread-safe.
class Stepper {
 public:
  static constexpr std::size_t kMaxConfigurations = 128;

  explicit Stepper(const Automaton& automaton);

  std::vector<Configuration> start();
  // After `byte`; empty when it does not fit.
  void advance(std::span<const Configuration> from, std::uint8_t byte,
               std::vector<Configuration>& to);
  // Where the ends of the rules of `from` return to, with all that follows without a byte.
  void leave(std::span<const Configuration> from, std::vector<Configuration>& to);
  // Completes a set that one configuration was put into.
  void close(std::vector<Configuration>& set);

  StackPool& pool() { return pool_; }
  const Automaton& automaton() const { return automaton_; }

 private:
  void add(std::vector<Configuration>& set, Configuration configuration);
  void enter_rule(int rule, std::vector<Configuration>& set);

  const Automaton& automaton_;
  StackPool pool_;
  std::vector<std::vector<StackPool::Frame>> pending_;  // by rank of the called rule
  std::vector<int> ranked_;                             // rule of a rank
  std::vector<int> waiting_;                            // heap of ranks, smallest first
  std::vector<StackPool::Frame> scratch_;
};

// The text of one answer. Not thread-safe.
class Matcher {
 public:
  explicit Matcher(const Automaton& automaton) : stepper_(automaton), set_(stepper_.start()) {}

  // False, and nothing changes, when the text does not fit.
  bool accept(std::string_view bytes);
  // The text may end here.
  bool can_end() const;
  std::span<const Configuration> configurations() const { return set_; }
  Stepper& stepper() { return stepper_; }

 private:
  Stepper stepper_;
  std::vector<Configuration> set_, next_, saved_;
};

}  // namespace quern::grammar
