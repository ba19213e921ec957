// How long reading a schema may take, and again compiling a grammar.
// Must never be the only bound: sizes are bounded by themselves.
// Proved by use.
#pragma once

#include <chrono>

namespace quern::grammar {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr std::chrono::seconds kCompileTime{60};  // a sanitizer takes ten times the time
#else
inline constexpr std::chrono::seconds kCompileTime{3};
#endif

}  // namespace quern::grammar
