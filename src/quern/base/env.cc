// See env.h.
#include "quern/base/env.h"

#include <cstdlib>

namespace quern {

std::optional<std::string> environment(const char* name) {
  const char* value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): read at start-up only
  if (value == nullptr) return std::nullopt;
  return std::string(value);
}

}  // namespace quern
