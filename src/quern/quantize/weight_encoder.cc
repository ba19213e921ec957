// Cast and MXFP4; see weight_encoder.h.
#include "quern/quantize/weight_encoder.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/numerics/mxfp4.h"

namespace quern {
namespace {

template <typename T>
std::span<const T> elements(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const T*>(bytes.data()), bytes.size() / sizeof(T)};
}

std::span<std::uint8_t> as_u8(std::span<std::byte> bytes) {
  return {reinterpret_cast<std::uint8_t*>(bytes.data()), bytes.size()};
}

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

class Mxfp4Encoder final : public WeightEncoder {
 public:
  explicit Mxfp4Encoder(const WeightSource& source) : WeightEncoder(specs(source)) {}

  std::uint64_t granularity() const override { return kMxBlock; }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    const std::uint64_t per_byte = output == 0 ? 2 : kMxBlock;
    return {elements.begin / per_byte, elements.size() / per_byte};
  }
  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    const std::span<std::uint8_t> packed = as_u8(outputs[0]);
    const std::span<std::uint8_t> scales = as_u8(outputs[1]);
    if (values.dtype == DType::kBF16) {
      return mxfp4_encode_row(elements<BF16>(values.bytes), packed, scales);
    }
    if (values.dtype == DType::kF16) {
      return mxfp4_encode_row(elements<FP16>(values.bytes), packed, scales);
    }
    return mxfp4_encode_row(elements<float>(values.bytes), packed, scales);
  }
  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    const std::span<const std::uint8_t> packed = as_u8(outputs[0]);
    const std::span<const std::uint8_t> scales = as_u8(outputs[1]);
    if (values.dtype == DType::kBF16) {
      mxfp4_measure(elements<BF16>(values.bytes), packed, scales, statistics);
    } else if (values.dtype == DType::kF16) {
      mxfp4_measure(elements<FP16>(values.bytes), packed, scales, statistics);
    } else {
      mxfp4_measure(elements<float>(values.bytes), packed, scales, statistics);
    }
    return true;
  }

 private:
  static std::vector<TensorSpec> specs(const WeightSource& source) {
    Shape packed = source.shape();
    packed.back() /= 2;
    // Quark flattens the leading dimensions of the scale: [rows, in / 32].
    const std::int64_t columns = source.shape().back();
    const Shape rows(source.shape().begin(), source.shape().end() - 1);
    const Shape scale = {num_elements(rows), columns / static_cast<std::int64_t>(kMxBlock)};
    return {{source.name(), DType::kU8, packed}, {source.name() + "_scale", DType::kU8, scale}};
  }
};

}  // namespace

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

std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source) {
  return std::make_unique<Mxfp4Encoder>(source);
}

}  // namespace quern
