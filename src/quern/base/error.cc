// See error.h.
#include "quern/base/error.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace quern {

void throw_errno(std::string_view what) {
  const int code = errno;
  throw Error("{}: {}", what, std::strerror(code));
}

void check_failed(const char* file, int line, const char* expression, const std::string& message) {
  std::fprintf(stderr, "%s:%d: check failed: %s%s%s\n", file, line, expression,
               message.empty() ? "" : ": ", message.c_str());
  std::abort();
}

}  // namespace quern
