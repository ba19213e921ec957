// Tensors that play the same role: names that differ only in their numbers.
// Must never join names that differ in anything else.
// Proved by tests/quantize/report_test.cc.
#pragma once

#include <string>
#include <string_view>

namespace quern {

// "a.layers.N.experts.N.w1.weight": components that are numbers become N.
std::string tensor_class(std::string_view name);

// The number behind the component `key` ("layers", "experts"); -1 when there is none.
int number_behind(std::string_view name, std::string_view key);

}  // namespace quern
