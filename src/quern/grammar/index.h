// States, rules and expressions are numbered by int, where -1 is none; containers by std::size_t.
// Must never be given -1.
// Proved by use.
#pragma once

#include <cstddef>

namespace quern::grammar {

inline std::size_t index(int i) { return static_cast<std::size_t>(i); }

}  // namespace quern::grammar
