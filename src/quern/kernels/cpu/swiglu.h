// SwiGLU-OAI of a row. Proved by tests/kernels/dot_test.cc (against double).
#pragma once

#include <cstdint>

#include "quern/kernels/backend.h"

namespace quern::kernels {

// out[i] = bf16(g * sigmoid(alpha g) * (u + beta)), g = min(bf16(gate[i]), limit), u =
// clamp(bf16(up[i]), +-limit), for i < n. An element's result depends on nothing else; out may be
// gate or up.
void swiglu_row(const float* gate, const float* up, std::int64_t n, const SwigluSpec& spec,
                float* out);

}  // namespace quern::kernels
