// See version.h; QUERN_VERSION comes from CMake's project().
#include "quern/base/version.h"

namespace quern {

std::string_view version() { return QUERN_VERSION; }

}  // namespace quern
