// Makes back ends by name, so that nobody above includes a device's header.
// Must never hold device code.
// Proved by tests/kernels/parity_test.cc.
#pragma once

#include <memory>

#include "quern/distributed/communicator.h"
#include "quern/kernels/backend.h"

namespace quern::kernels {

// Where activations are rounded.
enum class Rounding : std::uint8_t {
  kBF16,  // at vLLM's rounding points; RoPE tables in BF16
  kNone,  // nowhere; RoPE tables in float32 (what float32 reference outputs are compared with)
};

// The naive back end: plain loops in float32, the oracle of all others.
std::unique_ptr<Backend> make_reference_backend(Rounding rounding);

// Which of the MXFP4 kernels runs. Results do not depend on it.
enum class InstructionSet : std::uint8_t {
  kAuto,  // the best that the machine has
  kGeneric,
  kAvx2,
  kAvxVnni,
  kAvx512Vnni,
};

// What the products of the vision tower run on. Results are the same for any number of threads and
// in any company, but of one unit to another they differ by float32 rounding.
enum class TileUnit : std::uint8_t {
  kAuto,     // matrix units for BF16 (AMX) where the machine has them, else vectors
  kVectors,  // float32
};

struct CpuOptions {
  int num_threads = 0;  // 0 = one per core
  MoeBackend moe_backend = MoeBackend::kNative;
  InstructionSet instruction_set = InstructionSet::kAuto;
  // Weights are split over its ranks by output rows (README of model); null: one rank. Outlives the
  // back end.
  Communicator* communicator = nullptr;
  TileUnit tile_unit = TileUnit::kAuto;
};

// Equal on two machines: what is computed on both has the same bits. (The order of accumulation
// follows the vectors of the machine, and in a vision tower its matrix units.)
std::int64_t cpu_arithmetic(bool vision);

// The fast CPU back end.
std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options);

}  // namespace quern::kernels
