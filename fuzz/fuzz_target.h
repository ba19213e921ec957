// What every fuzz target shares: the entry point that libFuzzer calls, and what counts as survived.
// Must never swallow anything but quern::Error: any other exception is a finding.
// Proved by the Fuzz.* tests, which feed each target its corpus.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "quern/base/error.h"

// One input; returns 0. Aborts, or lets a sanitizer abort, on a finding.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace quern::fuzz {

inline std::string_view text_of(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

// Hostile input may be refused, by an Error with a text. True when it was taken.
template <typename Fn>
bool accepts(const Fn& fn) {
  try {
    fn();
    return true;
  } catch (const Error& error) {
    QUERN_CHECK(error.what()[0] != '\0');
    return false;
  }
}

}  // namespace quern::fuzz
