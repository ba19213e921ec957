// The oracle of the vision operations. See reference_vision.cc.
// Must never be included outside this folder. Proved by tests/model/vision_tower_test.cc.
#pragma once

#include <memory>

#include "quern/kernels/factory.h"
#include "quern/kernels/vision_backend.h"

namespace quern::kernels {

std::unique_ptr<VisionBackend> make_reference_vision(Rounding rounding);

}  // namespace quern::kernels
