// The preprocessing of the released checkpoint (the defaults of its configuration).
// Must never follow m3-tiny's.
// Proved by use.
#pragma once

#include "quern/vision/preprocess.h"

namespace quern::test {

inline vision::VisionPreprocessConfig release_config() {
  return vision::make_preprocess_config(PreprocessorConfig{});
}

}  // namespace quern::test
