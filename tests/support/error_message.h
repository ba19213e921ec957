// The message of the quern::Error (or a kind of it) that a call throws.
// Must never hide that nothing was thrown: the message is empty then, and no expectation matches
// it. Proved by use.
#pragma once

#include <string>
#include <utility>

#include "quern/base/error.h"

namespace quern::test {

template <typename Expected = Error, typename Fn>
std::string error_message(Fn&& fn) {
  try {
    std::forward<Fn>(fn)();
  } catch (const Expected& error) {
    return error.what();
  }
  return "";
}

}  // namespace quern::test
