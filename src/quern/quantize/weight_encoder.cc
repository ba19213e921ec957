// What encoders share, and the cast; see weight_encoder.h.
#include "quern/quantize/weight_encoder.h"

#include <algorithm>
#include <cmath>

#include "quern/base/error.h"
#include "quern/quantize/encoder_parts.h"

namespace quern {
namespace {

class CastEncoder final : public WeightEncoder {
 public:
  CastEncoder(const WeightSource& source, DType to)
      : WeightEncoder({{source.name(), to, source.shape()}}), to_(to) {}

  std::uint64_t granularity() const override { return 1; }
  OutputRegion output_region(std::size_t, Range elements, bool) const override {
    const std::uint64_t bytes = dtype_bytes(to_);
    return {elements.begin * bytes, elements.size() * bytes};
  }
  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    if (values.dtype == to_) {
      std::ranges::copy(values.bytes, outputs[0].begin());
      return true;
    }
    std::vector<float> floats;
    widen(values, floats);
    if (to_ == DType::kBF16) {
      float_to_bf16(floats, {reinterpret_cast<BF16*>(outputs[0].data()), floats.size()});
    } else if (to_ == DType::kF16) {
      float_to_fp16(floats, {reinterpret_cast<FP16*>(outputs[0].data()), floats.size()});
    } else {
      std::ranges::copy(std::as_bytes(std::span(floats)), outputs[0].begin());
    }
    return true;
  }

 private:
  DType to_;
};

}  // namespace

float round_to(DType dtype, float value) {
  if (dtype == DType::kBF16) return round_to_bf16(value);
  return dtype == DType::kF16 ? fp16_to_float(float_to_fp16(value)) : value;
}

void TensorRange::add(const MinMax& part) {
  const std::lock_guard lock(mutex_);
  if (empty_) range_ = part;
  empty_ = false;
  range_ = {std::min(range_.min, part.min), std::max(range_.max, part.max),
            range_.finite && part.finite};
}

MinMax TensorRange::get() const {
  const std::lock_guard lock(mutex_);
  QUERN_CHECK(!empty_);
  return range_;
}

float fp8_scale(const MinMax& range) {
  const float amax = std::max(std::abs(std::min(range.min, 0.0f)), std::max(range.max, 0.0f));
  const float scale = amax / 448.0f;
  return scale == 0.0f ? kScaleEpsilon : scale;
}

IntegerGrid integer_grid(const MinMax& range, DType dtype, bool is_signed, int bits, float& scale) {
  const float low = std::min(range.min, 0.0f);
  const float high = std::max(range.max, 0.0f);
  const int codes = 1 << bits;
  IntegerGrid grid;
  if (is_signed) {
    scale = round_to(dtype, std::max(-low, high) / (static_cast<float>(codes - 1) / 2));
    scale = std::max(scale, kScaleEpsilon);
    grid.low = -codes / 2;
    grid.high = codes / 2 - 1;
  } else {
    scale = round_to(dtype, round_to(dtype, high - low) / static_cast<float>(codes - 1));
    scale = std::max(scale, kScaleEpsilon);
    const float zero = std::nearbyint(round_to(dtype, low / scale));
    grid.low = 0;
    grid.high = codes - 1;
    grid.zero_point = std::clamp(static_cast<int>(-zero), grid.low, grid.high);
  }
  grid.inverse_scale = 1.0f / scale;
  return grid;
}

void pack_int4_row(std::span<const std::int8_t> codes, const std::array<std::uint8_t, 8>& order,
                   std::span<std::uint32_t> packed) {
  QUERN_CHECK(packed.size() == (codes.size() + 7) / 8);
  for (std::size_t j = 0; j < packed.size(); ++j) {
    std::uint32_t word = 0;
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t index = 8 * j + order[i];
      if (index < codes.size()) word |= (static_cast<std::uint32_t>(codes[index]) & 15u) << (4 * i);
    }
    packed[j] = word;
  }
}

void unpack_int4_row(std::span<const std::uint32_t> packed,
                     const std::array<std::uint8_t, 8>& order, bool is_signed,
                     std::span<std::int8_t> codes) {
  QUERN_CHECK(packed.size() == (codes.size() + 7) / 8);
  for (std::size_t j = 0; j < packed.size(); ++j) {
    for (std::size_t i = 0; i < 8; ++i) {
      const std::size_t index = 8 * j + order[i];
      if (index >= codes.size()) continue;
      const auto nibble = static_cast<int>(packed[j] >> (4 * i) & 15u);
      codes[index] = static_cast<std::int8_t>(is_signed ? (nibble ^ 8) - 8 : nibble);
    }
  }
}

void widen(const WeightValues& values, std::vector<float>& out) {
  out.resize(values.bytes.size() / dtype_bytes(values.dtype));
  if (values.dtype == DType::kBF16) {
    bf16_to_float(elements<BF16>(values.bytes), out);
  } else if (values.dtype == DType::kF16) {
    fp16_to_float(elements<FP16>(values.bytes), out);
  } else {
    QUERN_CHECK(values.dtype == DType::kF32);
    std::ranges::copy(elements<float>(values.bytes), out.begin());
  }
}

std::unique_ptr<WeightEncoder> make_cast_encoder(const WeightSource& source, DType to) {
  return std::make_unique<CastEncoder>(source, to);
}

}  // namespace quern
