// The tests of `is` (see interpreter.h).
#include <array>
#include <utility>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/unicode.h"

namespace quern::jinja {
namespace {

const Value& operand(CallArgs& args) {
  if (args.positional.size() != 1) throw Error("the test takes one argument");
  return args.positional.front();
}

Int whole(const Value& value) {
  if (!value.is_int()) throw Error("the test needs an integer, found {}", value.type_name());
  return value.as_int();
}

Int modulo(const Value& value, Int divisor) {
  if (divisor == 0) throw Error("division by zero");
  return whole(value) % divisor;
}

template <int kLow, int kHigh>
bool ordered(Interpreter& in, const Value& v, CallArgs& args) {
  const int order = compare(in.defined(v), in.defined(operand(args)));
  return order >= kLow && order <= kHigh;
}

bool cased(const Value& v, bool upper) {
  const std::string text = v.str();
  spend(2 * scan_steps(text.size()));
  const std::string same = upper ? to_upper(text) : to_lower(text);
  const std::string other = upper ? to_lower(text) : to_upper(text);
  return text == same && text != other;
}

bool is_indexable(const Value& v) {
  const Sequence* s = v.sequence();
  return v.text() != nullptr || v.dict() != nullptr || v.undefined() != nullptr ||
         (s != nullptr && s->kind <= Sequence::Kind::kRange);
}

constexpr std::array<std::pair<std::string_view, Test>, 39> kTests = {{
    {"defined", [](Interpreter&, const Value& v, CallArgs&) { return v.undefined() == nullptr; }},
    {"undefined", [](Interpreter&, const Value& v, CallArgs&) { return v.undefined() != nullptr; }},
    {"none", [](Interpreter&, const Value& v, CallArgs&) { return v.is_none(); }},
    {"string", [](Interpreter&, const Value& v, CallArgs&) { return v.text() != nullptr; }},
    {"number", [](Interpreter&, const Value& v, CallArgs&) { return v.is_number(); }},
    {"integer", [](Interpreter&, const Value& v, CallArgs&) { return v.is_int() && !v.is_bool(); }},
    {"float", [](Interpreter&, const Value& v, CallArgs&) { return v.is_float(); }},
    {"boolean", [](Interpreter&, const Value& v, CallArgs&) { return v.is_bool(); }},
    {"true", [](Interpreter&, const Value& v, CallArgs&) { return v.is_bool() && v.truthy(); }},
    {"false", [](Interpreter&, const Value& v, CallArgs&) { return v.is_bool() && !v.truthy(); }},
    {"mapping", [](Interpreter&, const Value& v, CallArgs&) { return v.dict() != nullptr; }},
    {"iterable",
     [](Interpreter& in, const Value& v, CallArgs&) {
       if (v.undefined() != nullptr && in.strict()) return false;
       return v.text() != nullptr || v.sequence() != nullptr || v.dict() != nullptr || v.undefined() != nullptr;
     }},
    {"sequence", [](Interpreter&, const Value& v, CallArgs&) { return is_indexable(v); }},
    {"callable", [](Interpreter&, const Value& v, CallArgs&) { return v.callable() != nullptr; }},
    {"sameas", [](Interpreter&, const Value& v, CallArgs& a) { return v.same_as(operand(a)); }},
    {"odd", [](Interpreter&, const Value& v, CallArgs&) { return modulo(v, 2) != 0; }},
    {"even", [](Interpreter&, const Value& v, CallArgs&) { return modulo(v, 2) == 0; }},
    {"divisibleby",
     [](Interpreter&, const Value& v, CallArgs& a) { return modulo(v, whole(operand(a))) == 0; }},
    {"lower", [](Interpreter&, const Value& v, CallArgs&) { return cased(v, false); }},
    {"upper", [](Interpreter&, const Value& v, CallArgs&) { return cased(v, true); }},
    {"in", [](Interpreter& in, const Value& v, CallArgs& a) { return in.contains(operand(a), v); }},
    {"eq", [](Interpreter&, const Value& v, CallArgs& a) { return v == operand(a); }},
    {"equalto", [](Interpreter&, const Value& v, CallArgs& a) { return v == operand(a); }},
    {"==", [](Interpreter&, const Value& v, CallArgs& a) { return v == operand(a); }},
    {"ne", [](Interpreter&, const Value& v, CallArgs& a) { return !(v == operand(a)); }},
    {"!=", [](Interpreter&, const Value& v, CallArgs& a) { return !(v == operand(a)); }},
    {"lt", ordered<-1, -1>},
    {"lessthan", ordered<-1, -1>},
    {"<", ordered<-1, -1>},
    {"le", ordered<-1, 0>},
    {"<=", ordered<-1, 0>},
    {"gt", ordered<1, 1>},
    {"greaterthan", ordered<1, 1>},
    {">", ordered<1, 1>},
    {"ge", ordered<0, 1>},
    {">=", ordered<0, 1>},
    {"escaped", [](Interpreter&, const Value&, CallArgs&) { return false; }},
    {"filter",
     [](Interpreter&, const Value& v, CallArgs&) {
       return find_text_filter(v.str()) != nullptr || find_sequence_filter(v.str()) != nullptr;
     }},
    {"test", [](Interpreter&, const Value& v, CallArgs&) { return find_test(v.str()) != nullptr; }},
}};

}  // namespace

Test find_test(std::string_view name) {
  for (const auto& [key, test] : kTests) {
    if (!key.empty() && key == name) return test;
  }
  return nullptr;
}

}  // namespace quern::jinja
