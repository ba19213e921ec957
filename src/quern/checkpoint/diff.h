// How two checkpoints differ, tensor by tensor and key by key of config.json.
// Must never hold more than a few thousand decoded values a thread.
// Proved by tests/checkpoint/inspect_diff_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "quern/checkpoint/checkpoint.h"

namespace quern {

struct TensorDiff {
  enum class Kind : std::uint8_t {
    kIdentical,
    kOnlyInA,
    kOnlyInB,
    kForm,       // dtype or shape differ in a way that values cannot be compared
    kValues,     // values were compared
    kQuantized,  // values were compared, exactly one side is quantized (its scales included)
  };
  std::string name;
  Kind kind = Kind::kIdentical;
  std::string a;  // "BF16 [192, 64]", "MXFP4 [192, 64]"; empty where absent
  std::string b;
  // For kValues and kQuantized. Infinite when a value is not finite on one side only.
  double max_abs_error = 0.0;
  double sqnr_db = 0.0;  // 10 log10(sum a^2 / sum (a - b)^2); infinite for equal values
};

struct CheckpointDiff {
  std::vector<TensorDiff> tensors;       // of A in its order, then those only in B
  std::vector<std::string> config_keys;  // paths at which the two config.json differ

  std::size_t count(TensorDiff::Kind kind) const;
  bool identical() const {
    return count(TensorDiff::Kind::kIdentical) == tensors.size() && config_keys.empty();
  }
};

struct DiffOptions {
  std::vector<std::string>
      ignore_config_keys;  // "quantization_config.version": the key and all below
  int threads = 0;         // 0: one a core
};

CheckpointDiff diff_checkpoints(const Checkpoint& a, const Checkpoint& b,
                                const DiffOptions& options);

// Paths ("text_config.rope_theta", "quantization_config.exclude[3]") at which two values differ;
// the order of keys matters not.
std::vector<std::string> diff_json(const Json& a, const Json& b,
                                   const std::vector<std::string>& ignore = {});

}  // namespace quern
