// NVFP4: FP4 in groups of 16, E4M3 scales, one scale of the scales. See weight_encoder.h.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "quern/base/error.h"
#include "quern/numerics/e2m1.h"
#include "quern/quantize/encoder_parts.h"

namespace quern {
namespace {

constexpr std::uint64_t kGroup = 16;

class Nvfp4Encoder final : public WeightEncoder {
 public:
  explicit Nvfp4Encoder(const WeightSource& source) : WeightEncoder(specs(source)) {}

  std::uint64_t granularity() const override { return kGroup; }
  OutputRegion output_region(std::size_t output, Range elements, bool last) const override {
    if (output == 0) return {elements.begin / 2, elements.size() / 2};
    if (output == 1) return {elements.begin / kGroup, elements.size() / kGroup};
    return {0, last ? sizeof(float) : 0};
  }

  bool needs_scan() const override { return true; }
  void scan(const WeightValues& values) override {
    std::vector<float> floats;
    widen(values, floats);
    range_.add(min_max(floats));
  }

  // Quark (export/nn/modules/realquantizer.py): the scale of a group is its largest magnitude / 6
  // in binary32; it goes to E4M3 and back under the global scale, and what came back divides the
  // weights; the stored byte is made of that again.
  bool encode(const WeightValues& values, OutputBytes outputs) const override {
    std::vector<float> floats;
    widen(values, floats);
    const float global = global_scale();
    const auto packed = elements<std::uint8_t>(outputs[0]);
    const auto scales = elements<std::uint8_t>(outputs[1]);
    for (std::size_t g = 0; g < scales.size(); ++g) {
      const auto group = std::span<const float>(floats).subspan(g * kGroup, kGroup);
      const MinMax range = min_max(group);
      if (!range.finite) return false;
      const float amax = std::max(std::abs(range.min), std::abs(range.max));
      float scale = amax / 6.0f;
      if (scale == 0.0f) scale = kScaleEpsilon;
      scale = e4m3_to_float(e4m3(scale / global)) * global;
      scales[g] = e4m3(scale / global);
      if (scale == 0.0f) scale = kScaleEpsilon;
      e2m1_encode(group, scale, packed.subspan(g * kGroup / 2, kGroup / 2));
    }
    if (!outputs[2].empty()) std::memcpy(outputs[2].data(), &global, sizeof(global));
    return true;
  }

  bool measure(const WeightValues& values, OutputBytes outputs,
               WeightStatistics& statistics) const override {
    std::vector<float> floats;
    widen(values, floats);
    const float global = global_scale();
    const std::span<const std::uint8_t> packed = elements<std::uint8_t>(outputs[0]);
    std::vector<float> scales(outputs[1].size());
    std::ranges::transform(elements<std::uint8_t>(outputs[1]), scales.begin(),
                           [&](std::uint8_t code) { return e4m3_to_float(code) * global; });
    std::vector<float> restored(floats.size());
    for (std::size_t i = 0; i < restored.size(); ++i) {
      restored[i] = kE2M1Values[packed[i / 2] >> (i % 2 * 4) & 15u] * scales[i / kGroup];
    }
    measure_restored(floats, restored, kGroup, scales, 6.0f, statistics);
    return true;
  }

 private:
  static std::uint8_t e4m3(float scale) { return encode_magnitude(kE4M3, scale); }

  float global_scale() const {
    const MinMax range = range_.get();
    const float scale = std::max(std::abs(range.min), std::abs(range.max)) / (6.0f * 448.0f);
    return scale == 0.0f ? kScaleEpsilon : scale;
  }

  static std::vector<TensorSpec> specs(const WeightSource& source) {
    Shape packed = source.shape();
    packed.back() /= 2;
    const Shape scale = {static_cast<std::int64_t>(rows_of(source)),
                         source.shape().back() / static_cast<std::int64_t>(kGroup)};
    return {{source.name(), DType::kU8, packed},
            {source.name() + "_scale", DType::kF8E4M3, scale},
            {source.name() + "_scale_2", DType::kF32, {}}};
  }

  TensorRange range_;
};

}  // namespace

std::unique_ptr<WeightEncoder> make_nvfp4_encoder(const WeightSource& source) {
  return std::make_unique<Nvfp4Encoder>(source);
}

}  // namespace quern
