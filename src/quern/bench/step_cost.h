// What a step of the model must read and compute, and how long this machine needs for that at
// least: the bound beside which `quern bench` prints what was reached (formulas: README.md).
// Must never count what a step could avoid: activations, cache writes, a weight twice.
// Proved by tests/bench/step_cost_test.cc (against a calculation by hand).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/model_config.h"
#include "quern/kernels/backend.h"

namespace quern::bench {

// The operations of kernels::Backend that make up a step.
enum class Operation : std::uint8_t {
  kEmbed,
  kNorm,        // rms_norm, add_rms_norm
  kProjectQkv,  // with the indexer's projections
  kSelectBlocks,
  kAttend,
  kOutputProjection,
  kMlp,
  kRoute,
  kMoe,
  kLogits,
};
inline constexpr std::size_t kNumOperations = 10;
std::string_view operation_name(Operation operation);

struct Cost {
  double bytes = 0;                // read from memory
  double int8_multiply_adds = 0;   // MXFP4 weights and activations, --moe-backend native
  double float_multiply_adds = 0;  // all others

  Cost& operator+=(const Cost& other);
};

// What the machine can do, measured (kernels/machine_probe.h).
struct MachineRates {
  double read_bytes_per_second = 0;
  double int8_multiply_adds_per_second = 0;
  double float_multiply_adds_per_second = 0;
};

// The longer of reading and computing: the two overlap at best. 8-bit and float products share the
// units.
double bound_seconds(const Cost& cost, const MachineRates& rates);

struct StepCost {
  std::array<Cost, kNumOperations> operations;

  Cost& of(Operation operation) { return operations[static_cast<std::size_t>(operation)]; }
  const Cost& of(Operation operation) const {
    return operations[static_cast<std::size_t>(operation)];
  }
  Cost total() const;
  StepCost& operator+=(const StepCost& other);
};

// Tokens [start, start + tokens) of one sequence.
struct StepSequence {
  std::int64_t start = 0;
  std::int64_t tokens = 1;
  bool wants_logits = true;  // of the last token
};

// Experts of a layer that `tokens` tokens choose, each `chosen` of `experts`, all choices alike
// likely: experts (1 - (1 - chosen / experts)^tokens).
double expected_experts(std::int64_t experts, std::int64_t chosen, std::int64_t tokens);

class ModelCost {
 public:
  // `checkpoint` holds what `config` promises.
  ModelCost(const Checkpoint& checkpoint, const ModelConfig& config,
            kernels::MoeBackend moe_backend);

  // `experts`: of each MoE layer in order, how many different ones the step's tokens chose; empty =
  // expected_experts().
  StepCost step(std::span<const StepSequence> sequences,
                std::span<const std::int64_t> experts = {}) const;

 private:
  // Bytes and elements of a matrix or of several that are used together.
  struct Weights {
    double bytes = 0;
    double elements = 0;
    bool int8 = false;
    void add(const Weights& other);
  };
  struct Layer {
    bool is_moe = false;
    bool is_sparse = false;
    Weights qkv, output, mlp, gate, expert, shared;
  };

  Weights module(const std::string& name) const;
  Weights mlp(const std::string& prefix, const char* gate, const char* up, const char* down) const;
  Layer layer(std::int64_t index) const;
  void add_attention(const Layer& layer, std::span<const StepSequence> sequences,
                     StepCost& cost) const;
  static void add_products(const Weights& weights, double rows, Cost& cost);

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  kernels::MoeBackend moe_backend_;
  std::vector<Layer> layers_;
  Weights head_;
  double norm_bytes_ = 0;
  double embedding_row_bytes_ = 0;
};

}  // namespace quern::bench
