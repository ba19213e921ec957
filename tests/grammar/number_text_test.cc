#include "quern/grammar/number_text.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>

namespace quern::grammar {
namespace {

bool inside(double value, const NumberBounds& bounds) {
  if (bounds.low &&
      (bounds.low->exclusive ? value <= bounds.low->value : value < bounds.low->value)) {
    return false;
  }
  return !(bounds.high &&
           (bounds.high->exclusive ? value >= bounds.high->value : value > bounds.high->value));
}

TEST(NumberText, IntegersInRandomBounds) {
  std::mt19937 random(3);
  for (int i = 0; i < 150; ++i) {
    NumberBounds bounds;
    const auto bound = [&] {
      const double value = static_cast<double>(static_cast<int>(random() % 400) - 200);
      return NumberBound{random() % 4 == 0 ? value + 0.5 : value, random() % 2 == 0};
    };
    if (random() % 4 != 0) bounds.low = bound();
    if (random() % 4 != 0) bounds.high = bound();
    if (random() % 3 == 0) bounds.multiples = {1 + static_cast<std::int64_t>(random() % 12)};
    const CharAutomaton automaton = integer_text(bounds);
    for (int n = -1100; n <= 1100; ++n) {
      const bool expected =
          inside(n, bounds) && (bounds.multiples.empty() || n % bounds.multiples.front() == 0);
      ASSERT_EQ(automaton.accepts(std::to_string(n)), expected) << n << " case " << i;
    }
    EXPECT_FALSE(automaton.accepts("01"));
    EXPECT_FALSE(automaton.accepts("-"));
    EXPECT_FALSE(automaton.accepts("1.0"));
  }
}

TEST(NumberText, DecimalsInRandomBounds) {
  std::mt19937 random(4);
  const auto draw = [&] {
    static const double kScale[] = {1, 10, 100, 1000};
    return static_cast<double>(static_cast<int>(random() % 4000) - 2000) / kScale[random() % 4];
  };
  for (int i = 0; i < 150; ++i) {
    NumberBounds bounds;
    if (random() % 4 != 0) bounds.low = NumberBound{draw(), random() % 2 == 0};
    if (random() % 4 != 0) bounds.high = NumberBound{draw(), random() % 2 == 0};
    const CharAutomaton automaton = number_text(bounds);
    for (int k = 0; k < 400; ++k) {
      const bool at_bound = k % 10 == 0 && bounds.low.has_value();
      const double value = at_bound ? bounds.low->value : draw();
      for (const std::string& text :
           {fmt::format("{}", value), fmt::format("{:.3f}", value), fmt::format("{:.5f}", value)}) {
        ASSERT_EQ(automaton.accepts(text), inside(std::stod(text), bounds))
            << text << " case " << i;
      }
    }
  }
}

TEST(NumberText, Syntax) {
  const CharAutomaton any = number_text({});
  for (const char* text : {"0", "-0", "12.50", "-1.5e+10", "1E308", "2e-7"}) {
    EXPECT_EQ(any.accepts(text), std::string(text) != "1E308") << text;
  }
  for (const char* text : {"", "-", "01", "1.", ".5", "+1", "1e", "1e999", "NaN", "0x1"}) {
    EXPECT_FALSE(any.accepts(text)) << text;
  }
  // Too close to an excluded end for a double to tell.
  const CharAutomaton above =
      number_text({.low = NumberBound{0.3, true}, .high = {}, .multiples = {}});
  EXPECT_TRUE(above.accepts("0.30000000000001"));
  EXPECT_FALSE(above.accepts("0.3000000000000000000001"));
  const CharAutomaton tiny =
      number_text({.low = NumberBound{1e-7, false}, .high = {}, .multiples = {}});
  EXPECT_TRUE(tiny.accepts("0.0000001"));
  EXPECT_FALSE(tiny.accepts("0.00000009"));
  const CharAutomaton huge =
      integer_text({.low = {}, .high = NumberBound{1e30, false}, .multiples = {}});
  EXPECT_TRUE(huge.accepts("9000000000000000000"));
}

TEST(NumberText, BoundsOfHundredsOfDigits) {
  NumberBounds bounds;
  bounds.low = NumberBound{0};
  bounds.high = NumberBound{1.7976931348623157e308};
  const CharAutomaton wide = number_text(bounds);
  EXPECT_TRUE(wide.accepts("0.5"));
  EXPECT_TRUE(wide.accepts("17976931348623157" + std::string(292, '0')));
  EXPECT_FALSE(wide.accepts("17976931348623158" + std::string(292, '0')));
  EXPECT_FALSE(wide.accepts("-1"));
  bounds.low = NumberBound{1e-300};
  const CharAutomaton small = number_text(bounds);
  EXPECT_TRUE(small.accepts("0." + std::string(299, '0') + "1"));
  EXPECT_FALSE(small.accepts("0." + std::string(300, '0') + "1"));
  EXPECT_FALSE(small.accepts("0"));
}

}  // namespace
}  // namespace quern::grammar
