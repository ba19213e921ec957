// See cpu_linear.h.
#include "quern/kernels/cpu/cpu_linear.h"

#include "quern/kernels/cpu/dot_tile.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

// Weight rows that are decoded to float at a time: they stay in the L1 or L2 cache for all tokens.
constexpr std::int64_t kPanelRows = 8;

void dot_decoded(const CpuWeight& weight, std::int64_t row0, std::int64_t rows,
                 const float* const* x, std::int64_t tokens, float* out, std::int64_t out_stride,
                 Scratch<float>& panel) {
  const std::int64_t cols = weight.cols();
  const auto* packed = reinterpret_cast<const std::uint8_t*>(weight.data);
  const auto* scales = reinterpret_cast<const std::uint8_t*>(weight.scale);
  float* values = panel.reserve(kPanelRows * cols);
  for (std::int64_t r = 0; r < rows; r += kPanelRows) {
    const std::int64_t count = std::min(kPanelRows, rows - r);
    mxfp4_decode_row({packed + (row0 + r) * cols / 2, static_cast<std::size_t>(count * cols / 2)},
                     {scales + (row0 + r) * cols / 32, static_cast<std::size_t>(count * cols / 32)},
                     {values, static_cast<std::size_t>(count * cols)});
    dot_tile(values, cols, count, x, tokens, cols, out + r, out_stride);
  }
}

}  // namespace

void InputRows::reset(std::int64_t rows, std::int64_t max_cols) {
  max_cols_ = max_cols;
  const auto size = static_cast<std::size_t>(rows);
  if (plain_.size() < size) {
    plain_.resize(size);
    decoded_rows_.resize(size);
    quantized_.resize(size);
  }
}

void InputRows::prepare(ThreadTeam& team, InputForm form, const float* base, std::int64_t stride,
                        std::int64_t cols, std::int64_t begin, std::int64_t count) {
  const auto total = static_cast<std::int64_t>(plain_.size());
  if (form == InputForm::kFloat) {
    for (std::int64_t i = 0; i < count; ++i)
      plain_[static_cast<std::size_t>(begin + i)] = base + i * stride;
    return;
  }
  const auto values = [&](std::int64_t i) {
    return std::span<const float>(base + i * stride, static_cast<std::size_t>(cols));
  };
  if (form == InputForm::kDecoded) {
    float* decoded = decoded_.reserve(total * max_cols_);
    team.parallel_for(count, 1, [&](std::int64_t from, std::int64_t to, int) {
      for (std::int64_t i = from; i < to; ++i) {
        float* row = decoded + (begin + i) * max_cols_;
        mxfp4_qdq(values(i), {row, static_cast<std::size_t>(cols)});
        decoded_rows_[static_cast<std::size_t>(begin + i)] = row;
      }
    });
    return;
  }
  quantized_storage(total);
  team.parallel_for(count, 1, [&](std::int64_t from, std::int64_t to, int) {
    for (std::int64_t i = from; i < to; ++i) {
      quantized_[static_cast<std::size_t>(begin + i)] =
          quantize_row(values(i), quantized_storage(begin + i));
    }
  });
}

// Called with the number of rows first, which makes room for them.
QuantizedRowStorage InputRows::quantized_storage(std::int64_t row) {
  const std::int64_t blocks = mx_groups(max_cols_) * kMxGroup;
  return {codes_.reserve(row * blocks * 32) + row * blocks * 32,
          scales_.reserve(row * blocks) + row * blocks,
          corrections_.reserve(row * blocks) + row * blocks};
}

void InputRows::prepare_gathered(ThreadTeam& team, CpuExchange& exchange, InputForm form, Rows from,
                                 std::int64_t cols, std::int64_t begin, std::int64_t count) {
  const auto total = static_cast<std::int64_t>(plain_.size());
  const std::int64_t all_cols = exchange.size() * cols;
  if (form != InputForm::kQuantized) {
    float* rows = gathered_.reserve(total * max_cols_) + begin * max_cols_;
    exchange.gather_columns(from, count, cols, {rows, max_cols_});
    prepare(team, form, rows, max_cols_, all_cols, begin, count);
    return;
  }
  exchange.gather_mxfp4(from, count, cols);
  quantized_storage(total);
  team.parallel_for(count, 1, [&](std::int64_t first, std::int64_t last, int) {
    for (std::int64_t i = first; i < last; ++i) {
      const std::uint8_t* packed = exchange.gathered_row(i);
      quantized_[static_cast<std::size_t>(begin + i)] =
          unpack_row(packed, packed + all_cols / 2, all_cols, quantized_storage(begin + i));
    }
  });
}

void dot_rows(const CpuWeight& weight, std::int64_t row0, std::int64_t rows,
              const InputRows& inputs, const Products& how, std::span<const std::int32_t> tokens,
              float* out, std::int64_t out_stride, Scratch<float>& panel) {
  QUERN_CHECK(tokens.size() <= kTokenTile);
  const std::int64_t cols = weight.cols();
  const auto count = static_cast<std::int64_t>(tokens.size());
  const InputForm form = input_form(weight.format(), how.moe_backend);
  if (form == InputForm::kQuantized) {
    std::array<const QuantizedRow*, kTokenTile> x{};
    for (std::size_t i = 0; i < tokens.size(); ++i) x[i] = inputs.quantized(tokens[i]);
    const Mxfp4Product product{
        reinterpret_cast<const std::uint8_t*>(weight.data) + row0 * cols / 2,
        reinterpret_cast<const std::uint8_t*>(weight.scale) + row0 * cols / 32,
        rows,
        cols,
        x.data(),
        count,
        out,
        out_stride};
    const std::int64_t panel_floats =
        mxfp4_panel_bytes(cols) / static_cast<std::int64_t>(sizeof(float));
    how.mxfp4->dot(product, reinterpret_cast<std::byte*>(panel.reserve(panel_floats)));
    return;
  }
  std::array<const float*, kTokenTile> x{};
  for (std::size_t i = 0; i < tokens.size(); ++i) x[i] = inputs.floats(form)[tokens[i]];
  switch (weight.format()) {
    case WeightFormat::kF32:
      dot_tile(reinterpret_cast<const float*>(weight.data) + row0 * cols, cols, rows, x.data(),
               count, cols, out, out_stride);
      return;
    case WeightFormat::kBF16:
      dot_tile(reinterpret_cast<const BF16*>(weight.data) + row0 * cols, cols, rows, x.data(),
               count, cols, out, out_stride);
      return;
    case WeightFormat::kMxfp4:
    case WeightFormat::kMxfp4WeightOnly:
      dot_decoded(weight, row0, rows, x.data(), count, out, out_stride, panel);
      return;
  }
}

}  // namespace quern::kernels
