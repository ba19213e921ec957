// Weights as the CPU back end binds them, activations in the form that a weight's format wants, and
// the product of a range of weight rows with a list of tokens. Must never copy or convert a weight
// at bind time: a server starts in the time of reading headers. Proved by
// tests/kernels/parity_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "quern/base/thread_team.h"
#include "quern/kernels/backend.h"
#include "quern/kernels/cpu/cpu_exchange.h"
#include "quern/kernels/cpu/mxfp4_dot.h"
#include "quern/kernels/host_memory.h"

namespace quern::kernels {

// Points into the mapped file.
class CpuWeight final : public Weight {
 public:
  CpuWeight(std::int64_t rows, std::int64_t cols, const WeightSource& source)
      : Weight(rows, cols, source.format), data(source.weight.data), scale(source.scale.data) {}
  const std::byte* data;
  const std::byte* scale;

  float at(std::int64_t i) const {  // element i of a vector (norm weights, biases)
    return format() == WeightFormat::kF32 ? reinterpret_cast<const float*>(data)[i]
                                          : bf16_to_float(reinterpret_cast<const BF16*>(data)[i]);
  }
};

inline const CpuWeight& cpu(const Weight& weight) { return static_cast<const CpuWeight&>(weight); }
inline const CpuWeight& cpu(const WeightHandle& weight) { return cpu(*weight); }

// What a row of activations looks like to a product.
enum class InputForm : std::uint8_t {
  kFloat,      // as they are
  kQuantized,  // MXFP4 codes (native products)
  kDecoded,    // quantized to MXFP4 and decoded again (emulation)
};
inline constexpr std::size_t kNumInputForms = 3;

inline InputForm input_form(WeightFormat format, MoeBackend moe_backend) {
  if (format != WeightFormat::kMxfp4) return InputForm::kFloat;
  return moe_backend == MoeBackend::kNative ? InputForm::kQuantized : InputForm::kDecoded;
}

// Rows of activations in one or several forms; memory is kept between uses.
class InputRows {
 public:
  // Room for `rows` rows of at most `max_cols` values; forgets what was there.
  void reset(std::int64_t rows, std::int64_t max_cols);
  // Prepares rows [begin, begin + count) in `form` from base, `cols` values at distance `stride`.
  void prepare(ThreadTeam& team, InputForm form, const float* base, std::int64_t stride,
               std::int64_t cols, std::int64_t begin, std::int64_t count);
  // The same where each rank has `cols` columns of the rows.
  void prepare_gathered(ThreadTeam& team, CpuExchange& exchange, InputForm form, Rows from,
                        std::int64_t cols, std::int64_t begin, std::int64_t count);

  const float* const* floats(InputForm form) const {
    return form == InputForm::kFloat ? plain_.data() : decoded_rows_.data();
  }
  const QuantizedRow* quantized(std::int64_t row) const {
    return &quantized_[static_cast<std::size_t>(row)];
  }

 private:
  std::int64_t max_cols_ = 0;
  std::vector<const float*> plain_, decoded_rows_;
  std::vector<QuantizedRow> quantized_;
  // Storage of quantized row `row`.
  QuantizedRowStorage quantized_storage(std::int64_t row);

  Scratch<float> decoded_, scales_, gathered_;
  Scratch<std::int8_t> codes_;
  Scratch<std::int32_t> corrections_;
};

// How products with MXFP4 weights are computed.
struct Products {
  MoeBackend moe_backend = MoeBackend::kNative;
  const Mxfp4Kernel* mxfp4 = nullptr;
};

// out[i * out_stride + r] = weight row (row0 + r) . input row tokens[i]; `panel` is scratch of the
// calling thread.
void dot_rows(const CpuWeight& weight, std::int64_t row0, std::int64_t rows,
              const InputRows& inputs, const Products& how, std::span<const std::int32_t> tokens,
              float* out, std::int64_t out_stride, Scratch<float>& panel);

// Rows of a weight that are one piece of parallel work, and the largest list of tokens of one
// dot_rows() call.
inline constexpr std::int64_t kRowTile = 32;
inline constexpr std::size_t kTokenTile = 48;

}  // namespace quern::kernels
