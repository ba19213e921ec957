// MXFP4 and MXFP6: blocks of 32 with a power of two as scale. See weight_encoder.h.
#include <algorithm>

#include "quern/numerics/e8m0.h"
#include "quern/numerics/mxfp4.h"
#include "quern/numerics/weight_statistics.h"
#include "quern/quantize/encoder_parts.h"

namespace quern {
namespace {

class MxEncoder : public WeightEncoder {
 public:
  // `bits` an element.
  MxEncoder(const WeightSource& source, std::uint64_t bits)
      : WeightEncoder(specs(source, static_cast<std::int64_t>(bits))), bits_(bits) {}

  std::uint64_t granularity() const override { return kMxBlock; }
  OutputRegion output_region(std::size_t output, Range elements, bool) const override {
    if (output == 0) return {elements.begin * bits_ / 8, elements.size() * bits_ / 8};
    return {elements.begin / kMxBlock, elements.size() / kMxBlock};
  }

 private:
  static std::vector<TensorSpec> specs(const WeightSource& source, std::int64_t bits) {
    Shape packed = source.shape();
    packed.back() = packed.back() * bits / 8;
    // Quark flattens the leading dimensions of the scale.
    const Shape scale = {static_cast<std::int64_t>(rows_of(source)),
                         source.shape().back() / static_cast<std::int64_t>(kMxBlock)};
    return {{source.name(), DType::kU8, packed}, {source.name() + "_scale", DType::kU8, scale}};
  }

  std::uint64_t bits_;
};

class Mxfp4Encoder : public MxEncoder {
 public:
  explicit Mxfp4Encoder(const WeightSource& source) : MxEncoder(source, 4) {}

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    const auto packed = elements<std::uint8_t>(outputs[0]);
    const auto scales = elements<std::uint8_t>(outputs[1]);
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
    const std::span<const std::uint8_t> packed = elements<std::uint8_t>(outputs[0]);
    const std::span<const std::uint8_t> scales = elements<std::uint8_t>(outputs[1]);
    if (values.dtype == DType::kBF16) {
      mxfp4_measure(elements<BF16>(values.bytes), packed, scales, statistics);
    } else if (values.dtype == DType::kF16) {
      mxfp4_measure(elements<FP16>(values.bytes), packed, scales, statistics);
    } else {
      mxfp4_measure(elements<float>(values.bytes), packed, scales, statistics);
    }
    return true;
  }
};

class Mxfp4RuleEncoder final : public Mxfp4Encoder {
 public:
  Mxfp4RuleEncoder(const WeightSource& source, ScaleRule rule, std::span<const float> importance)
      : Mxfp4Encoder(source), rule_(rule), importance_(importance), columns_(columns_of(source)) {}

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    std::vector<float> floats;
    widen(values, floats);
    std::vector<float> importance;
    if (!importance_.empty()) {
      importance.resize(floats.size());
      for (std::size_t i = 0; i < importance.size(); ++i) {
        importance[i] = importance_[(values.elements.begin + i) % columns_];
      }
    }
    return mxfp4_encode_row_by_rule(rule_, floats, importance, elements<std::uint8_t>(outputs[0]),
                                    elements<std::uint8_t>(outputs[1]));
  }

 private:
  ScaleRule rule_;
  std::span<const float> importance_;
  std::uint64_t columns_;
};

class Mxfp6Encoder final : public MxEncoder {
 public:
  Mxfp6Encoder(const WeightSource& source, const MiniFloat& element)
      : MxEncoder(source, 6), element_(element) {}

  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    std::vector<float> floats;
    widen(values, floats);
    return mxfp6_encode_row(element_, floats, elements<std::uint8_t>(outputs[0]),
                            elements<std::uint8_t>(outputs[1]));
  }
  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<float> floats;
    widen(values, floats);
    const std::span<const std::uint8_t> packed = elements<std::uint8_t>(outputs[0]);
    std::vector<float> scales(outputs[1].size());
    std::ranges::transform(elements<std::uint8_t>(outputs[1]), scales.begin(), e8m0_to_float);
    std::vector<float> restored(floats.size());
    for (std::size_t i = 0; i < restored.size(); ++i) {
      // Four codes in three bytes, the first one lowest.
      const std::size_t byte = i / 4 * 3;
      const std::uint32_t four = packed[byte] | packed[byte + 1] << 8u | packed[byte + 2] << 16u;
      const auto code = static_cast<std::uint8_t>(four >> (i % 4 * 6) & 63u);
      restored[i] = decode_code(element_, code) * scales[i / kMxBlock];
    }
    measure_restored(floats, restored, kMxBlock, scales, decode_code(element_, element_.max_code),
                     statistics);
    return true;
  }

 private:
  MiniFloat element_;
};

}  // namespace

std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source) {
  return std::make_unique<Mxfp4Encoder>(source);
}

std::unique_ptr<WeightEncoder> make_mxfp4_encoder(const WeightSource& source, ScaleRule rule,
                                                  std::span<const float> importance) {
  if (rule == ScaleRule::kEven) return make_mxfp4_encoder(source);
  return std::make_unique<Mxfp4RuleEncoder>(source, rule, importance);
}

std::unique_ptr<WeightEncoder> make_mxfp6_encoder(const WeightSource& source,
                                                  const MiniFloat& element) {
  return std::make_unique<Mxfp6Encoder>(source, element);
}

}  // namespace quern
