// The checkpoint in the repository that most tests read.
// Must never be written to.
// Proved by use.
#pragma once

#include <filesystem>

namespace quern::test {

inline const std::filesystem::path kTinyModel = QUERN_SOURCE_DIR "/models/m3-tiny";

}  // namespace quern::test
