// See tensor_class.h.
#include "quern/quantize/tensor_class.h"

#include <algorithm>
#include <charconv>

namespace quern {
namespace {

// Calls fn(component) for each part between dots.
template <typename Fn>
void for_each_component(std::string_view name, const Fn& fn) {
  for (std::size_t begin = 0; begin <= name.size();) {
    const std::size_t end = std::min(name.find('.', begin), name.size());
    fn(name.substr(begin, end - begin));
    begin = end + 1;
  }
}

bool is_number(std::string_view component) {
  return !component.empty() && std::all_of(component.begin(), component.end(),
                                           [](char c) { return c >= '0' && c <= '9'; });
}

}  // namespace

std::string tensor_class(std::string_view name) {
  std::string result;
  for_each_component(name, [&](std::string_view component) {
    if (!result.empty()) result += '.';
    result += is_number(component) ? "N" : component;
  });
  return result;
}

int number_behind(std::string_view name, std::string_view key) {
  int number = -1;
  std::string_view before;
  for_each_component(name, [&](std::string_view component) {
    if (number < 0 && before == key && is_number(component)) {
      std::from_chars(component.data(), component.data() + component.size(), number);
    }
    before = component;
  });
  return number;
}

}  // namespace quern
