// States of a class cannot be told apart by any text of the length; a bounded string has few
// classes.
#include "quern/grammar/state_classes.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "quern/grammar/matcher.h"
#include "quern/grammar/structured_output.h"
#include "tests/grammar/random_grammar.h"

namespace quern::grammar {
namespace {

// Whether a text of at most `length` letters tells the states apart: by its fit, or by an end.
bool told_apart(Stepper& stepper, std::vector<Configuration> a, std::vector<Configuration> b,
                int length) {
  const auto ends = [&](const std::vector<Configuration>& set) {
    for (const Configuration& c : set) {
      if (c.stack == StackPool::kLocal && stepper.automaton().accepting(c.state)) return true;
    }
    return false;
  };
  if (ends(a) != ends(b)) return true;
  if (length == 0) return false;
  for (const char byte : std::string("abc\xC3\xA9")) {
    std::vector<Configuration> next_a, next_b;
    stepper.advance(a, static_cast<std::uint8_t>(byte), next_a);
    stepper.advance(b, static_cast<std::uint8_t>(byte), next_b);
    if (next_a.empty() != next_b.empty()) return true;
    if (!next_a.empty() && told_apart(stepper, next_a, next_b, length - 1)) return true;
  }
  return false;
}

TEST(StateClasses, NoTextOfTheLengthTellsThemApart) {
  const std::vector<int> lengths = {1, 2, 4};
  int shared = 0;
  for (unsigned seed = 0; seed < 300; ++seed) {
    SCOPED_TRACE(seed);
    std::mt19937 random(seed);
    GrammarBuilder builder;
    const RuleId root = test::make_random_grammar(builder, random);
    try {
      const Automaton automaton = compile(builder, root);
      const StateClasses classes(automaton, lengths, 1'000'000);
      Stepper stepper(automaton);
      for (int round = 0; round < 30; ++round) {
        const int a = static_cast<int>(random() % static_cast<unsigned>(automaton.num_states()));
        const int b = static_cast<int>(random() % static_cast<unsigned>(automaton.num_states()));
        for (std::size_t i = 0; i < lengths.size(); ++i) {
          if (a == b || classes.of(a, i) != classes.of(b, i)) continue;
          ++shared;
          std::vector<Configuration> set_a = {{a, StackPool::kLocal}};
          std::vector<Configuration> set_b = {{b, StackPool::kLocal}};
          stepper.close(set_a);
          stepper.close(set_b);
          EXPECT_FALSE(told_apart(stepper, set_a, set_b, lengths[i])) << a << " " << b;
        }
      }
    } catch (const Error&) {  // left recursion, no text, too ambiguous
    }
  }
  EXPECT_GT(shared, 150);
}

TEST(StateClasses, ABoundedStringHasFewForShortTokens) {
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kJsonSchema;
  output.schema = Json::parse(R"({"type":"string","maxLength":2000})");
  const Automaton automaton = compile(output);
  ASSERT_GT(automaton.num_states(), 4000);
  const std::vector<int> lengths = {4, 16, 5000};
  const StateClasses classes(automaton, lengths, 20'000'000);
  EXPECT_LT(classes.count(0), 200);
  EXPECT_LT(classes.count(1), 600);
  EXPECT_EQ(classes.count(2), automaton.num_states()) << "more work than allowed: not shared";
  EXPECT_EQ(classes.of(7, 2), 7);
}

}  // namespace
}  // namespace quern::grammar
