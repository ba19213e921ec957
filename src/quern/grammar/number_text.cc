// See number_text.h.
#include "quern/grammar/number_text.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quern/base/error.h"
#include "quern/grammar/regex_grammar.h"

namespace quern::grammar {
namespace {

CharAutomaton whole(const std::string& pattern) {
  return regex_automaton(pattern, RegexMatch::kWhole);
}

// A decimal without exponent and sign, "0" in front of the point at least.
struct Decimal {
  bool negative = false;
  std::string integer;
  std::string fraction;  // without trailing zeros
};

Decimal decimal_of(double value) {
  Decimal result;
  result.negative = std::signbit(value) && value != 0;
  // Shortest digits that give the double back, then moved by the exponent.
  std::string digits = fmt::format("{}", std::abs(value));
  int exponent = 0;
  if (const std::size_t e = digits.find('e'); e != std::string::npos) {
    exponent = std::stoi(digits.substr(e + 1));
    digits.resize(e);
  }
  std::size_t point = digits.find('.');
  if (point == std::string::npos) {
    point = digits.size();
  } else {
    digits.erase(point, 1);
  }
  int place = static_cast<int>(point) + exponent;  // digits before the point
  if (place < 0) {
    digits.insert(0, static_cast<std::size_t>(-place), '0');
    place = 0;
  }
  if (place > static_cast<int>(digits.size())) digits.resize(static_cast<std::size_t>(place), '0');
  result.integer = digits.substr(0, static_cast<std::size_t>(place));
  result.fraction = digits.substr(static_cast<std::size_t>(place));
  result.integer.erase(0, std::min(result.integer.find_first_not_of('0'), result.integer.size()));
  if (result.integer.empty()) result.integer = "0";
  while (!result.fraction.empty() && result.fraction.back() == '0') result.fraction.pop_back();
  return result;
}

const char* const kNatural = "(?:0|[1-9][0-9]*)";

// Edges by how a digit compares with that of the bound.
void add_digits(CharAutomaton::State& state, char bound, int less, int equal, int greater) {
  const auto c = static_cast<char32_t>(bound);
  if (bound > '0') state.edges.push_back({'0', c - 1, less});
  state.edges.push_back({c, c, equal});
  if (bound < '9') state.edges.push_back({c + 1, '9', greater});
}

// Natural numbers without leading zeros, at least / at most the bound. A bound may have hundreds of
// digits: states say how the digits so far compare with it.
CharAutomaton natural_bounded(const std::string& bound, bool at_least) {
  enum Order { kLess, kEqual, kGreater };
  const std::size_t n = bound.size();
  const auto state_of = [](std::size_t digits, Order order) {
    return static_cast<int>(digits == 0 ? 0 : 3 * digits - 2 + order);
  };
  const auto accepts = [&](std::size_t digits, Order order) {
    if (digits < n) return digits > 0 && !at_least;
    return order == kEqual || (order == kGreater) == at_least;
  };
  CharAutomaton result;
  const int longer = state_of(n + 1, kLess);
  for (std::size_t digits = 0; digits <= n; ++digits) {
    for (const Order order : {kLess, kEqual, kGreater}) {
      if (digits == 0 && order != kEqual) continue;
      auto& state = result.states.emplace_back();
      state.accepting = accepts(digits, order);
      if (digits == n) {
        state.edges.push_back({'0', '9', longer});
      } else if (order == kEqual) {
        add_digits(state, bound[digits], state_of(digits + 1, kLess), state_of(digits + 1, kEqual),
                   state_of(digits + 1, kGreater));
      } else {
        state.edges.push_back({'0', '9', state_of(digits + 1, order)});
      }
    }
  }
  result.states.push_back({{{'0', '9', longer}}, at_least});
  return intersect(whole(kNatural), result);
}
CharAutomaton natural_from(const std::string& low) { return natural_bounded(low, true); }
CharAutomaton natural_to(const std::string& high) { return natural_bounded(high, false); }

// ".ddd" or nothing, at least 0.`fraction`.
CharAutomaton fraction_from(const std::string& fraction) {
  if (fraction.empty()) return whole("(?:\\.[0-9]+)?");
  // 0 in front of the point, 1 + i: i digits were equal, then: larger.
  CharAutomaton result;
  const int larger = static_cast<int>(fraction.size()) + 1;
  result.states.push_back({{{'.', '.', 1}}, false});
  for (std::size_t i = 0; i < fraction.size(); ++i) {
    auto& state = result.states.emplace_back();
    add_digits(state, fraction[i], -1, static_cast<int>(i) + 2, larger);
    std::erase_if(state.edges, [](const auto& edge) { return edge.target < 0; });
  }
  result.states.push_back({{{'0', '9', larger}}, true});
  return result;
}

CharAutomaton joined(const CharAutomaton& a, const CharAutomaton& b) {  // a or b
  CharNfa nfa;
  nfa.start = nfa.add_state();
  nfa.accept = nfa.add_state();
  for (const CharAutomaton* part : {&a, &b}) {
    const int base = static_cast<int>(nfa.states.size());
    for (std::size_t i = 0; i < part->states.size(); ++i) nfa.add_state();
    for (std::size_t i = 0; i < part->states.size(); ++i) {
      const int from = base + static_cast<int>(i);
      for (const auto& edge : part->states[i].edges) {
        nfa.add_edge(from, {{edge.first, edge.last}}, base + edge.target);
      }
      if (part->states[i].accepting) nfa.add_jump(from, nfa.accept);
    }
    if (!part->empty()) nfa.add_jump(nfa.start, base);
  }
  return determinize(nfa);
}

CharAutomaton after(const std::string& prefix, const CharAutomaton& rest) {
  CharAutomaton result;
  if (rest.empty()) return result;
  const int shift = static_cast<int>(prefix.size());
  for (const char c : prefix) {
    auto& state = result.states.emplace_back();
    state.edges.push_back({static_cast<char32_t>(c), static_cast<char32_t>(c),
                           static_cast<int>(result.states.size())});
  }
  for (CharAutomaton::State state : rest.states) {
    for (auto& edge : state.edges) edge.target += shift;
    result.states.push_back(std::move(state));
  }
  return result;
}

// Natural part and fraction: magnitude at least / at most the decimal.
CharAutomaton magnitude_from(const Decimal& low, bool exclusive) {
  const CharAutomaton equal = after(low.integer, fraction_from(low.fraction));
  const CharAutomaton larger = minus(natural_from(low.integer), one_of({low.integer}));
  // Behind a larger natural part any fraction may follow.
  CharNfa nfa;
  nfa.start = nfa.add_state();
  nfa.accept = nfa.add_state();
  const int base = static_cast<int>(nfa.states.size());
  for (std::size_t i = 0; i < larger.states.size(); ++i) nfa.add_state();
  const int point = nfa.add_state();
  nfa.add_edge(point, {{'0', '9'}}, nfa.accept);
  nfa.add_edge(nfa.accept, {{'0', '9'}}, nfa.accept);
  const int end = nfa.add_state();
  nfa.add_jump(nfa.start, base);
  for (std::size_t i = 0; i < larger.states.size(); ++i) {
    const int from = base + static_cast<int>(i);
    for (const auto& edge : larger.states[i].edges) {
      nfa.add_edge(from, {{edge.first, edge.last}}, base + edge.target);
    }
    if (!larger.states[i].accepting) continue;
    nfa.add_edge(from, CharSet::of('.'), point);
    nfa.add_jump(from, end);
  }
  CharAutomaton with_fraction = determinize(nfa);
  nfa.accept = end;
  CharAutomaton result = joined(joined(with_fraction, determinize(nfa)), equal);
  if (!exclusive) return result;
  const std::string same = low.fraction.empty() ? "(?:\\.0+)?" : "\\." + low.fraction + "0*";
  return minus(result, whole(low.integer + same));
}

CharAutomaton magnitude_to(const Decimal& high, bool exclusive) {
  const CharAutomaton all = whole(std::string(kNatural) + "(?:\\.[0-9]+)?");
  return minus(all, magnitude_from(high, !exclusive));
}

// Texts of numbers at least the bound.
CharAutomaton number_from(const NumberBound& bound) {
  const Decimal low = decimal_of(bound.value);
  const CharAutomaton natural = whole(std::string(kNatural) + "(?:\\.[0-9]+)?");
  if (!low.negative) return magnitude_from(low, bound.exclusive);
  return joined(natural, after("-", magnitude_to(low, bound.exclusive)));
}

CharAutomaton number_to(const NumberBound& bound) {
  const Decimal high = decimal_of(bound.value);
  const CharAutomaton natural = whole(std::string(kNatural) + "(?:\\.[0-9]+)?");
  if (high.negative) return after("-", magnitude_from(high, bound.exclusive));
  // Minus zero is zero: not below an excluded zero.
  CharAutomaton negative = natural;
  if (bound.value == 0 && bound.exclusive) negative = minus(natural, whole("0(?:\\.0+)?"));
  return joined(after("-", negative), magnitude_to(high, bound.exclusive));
}

// Digits, with a sign, of multiples of `divisor`.
CharAutomaton multiples(std::int64_t divisor) {
  if (divisor > kMaxMultiple) {
    throw Error("multipleOf {} is above the limit of {}", divisor, kMaxMultiple);
  }
  CharAutomaton result;
  const auto m = static_cast<int>(divisor);
  // 0: nothing read; 1: a sign; 2 + r: remainder r.
  for (int state = 0; state < m + 2; ++state) {
    auto& s = result.states.emplace_back();
    s.accepting = state == 2;
    if (state == 0) s.edges.push_back({'-', '-', 1});
    const int remainder = std::max(state - 2, 0);
    for (int digit = 0; digit < 10; ++digit) {
      const auto c = static_cast<char32_t>('0' + digit);
      s.edges.push_back({c, c, 2 + (remainder * 10 + digit) % m});
    }
  }
  return result;
}

constexpr double kLargestBound = 9.0e18;

}  // namespace

CharAutomaton integer_text(const NumberBounds& bounds) {
  CharAutomaton result = whole(std::string("-?") + kNatural);
  const auto text = [](double value) { return fmt::format("{:.0f}", std::abs(value)); };
  if (bounds.low) {
    double low = std::ceil(std::max(bounds.low->value, -kLargestBound));
    if (bounds.low->exclusive && low == bounds.low->value) low += 1;
    if (low > kLargestBound) throw Error("minimum {} is above what is supported", low);
    result = intersect(
        result, low > 0 ? natural_from(text(low))
                        : joined(whole(kNatural),
                                 low < 0 ? after("-", natural_to(text(low))) : CharAutomaton{}));
  }
  if (bounds.high) {
    double high = std::floor(std::min(bounds.high->value, kLargestBound));
    if (bounds.high->exclusive && high == bounds.high->value) high -= 1;
    if (high < -kLargestBound) throw Error("maximum {} is below what is supported", high);
    result =
        intersect(result, high < 0 ? after("-", natural_from(text(high)))
                                   : joined(after("-", natural_from("1")), natural_to(text(high))));
  }
  for (const std::int64_t multiple : bounds.multiples) {
    result = intersect(result, multiples(multiple));
  }
  return result;
}

CharAutomaton number_text(const NumberBounds& bounds) {
  const std::string natural = std::string("-?") + kNatural;
  if (!bounds.bounded()) {
    // An exponent that no double can have is left out: readers turn it into infinity.
    return whole(natural + "(?:\\.[0-9]+)?(?:[eE][+-]?(?:[0-9]{1,2}|[12][0-9]{2}|30[0-7]))?");
  }
  if (!bounds.multiples.empty()) return integer_text(bounds);
  CharAutomaton result = whole(natural + "(?:\\.[0-9]+)?");
  for (const auto* bound : {&bounds.low, &bounds.high}) {
    if (!*bound) continue;
    result = intersect(result, bound == &bounds.low ? number_from(**bound) : number_to(**bound));
    if (!(*bound)->exclusive) continue;
    const Decimal end = decimal_of((*bound)->value);
    // 15 significant digits survive a double.
    const std::size_t room = end.integer.size() < 14 ? 15 - end.integer.size() : 1;
    const std::size_t decimals = std::max(room, end.fraction.size());
    result = intersect(result, whole(natural + fmt::format("(?:\\.[0-9]{{1,{}}})?", decimals)));
  }
  return result;
}

}  // namespace quern::grammar
