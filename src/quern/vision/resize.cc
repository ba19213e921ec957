// Antialiased bicubic on bytes: PyTorch's uint8 path (weights computed in double, rounded to 16-bit
// integers of the largest precision that fits; columns first, then rows, bytes in between), which
// is Pillow's rule. See preprocess.h.
#include <algorithm>
#include <cmath>

#include "quern/vision/preprocess.h"

namespace quern::vision {
namespace {

// Keys' cubic with a = -0.5, in PyTorch's order of operations.
double cubic(double x) {
  constexpr double a = -0.5;
  x = std::abs(x);
  if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
  if (x < 2.0) return ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
  return 0.0;
}

// For each output of an axis the first input and the weights of it and those behind it.
struct Axis {
  Axis(std::int64_t inputs, std::int64_t outputs);
  std::int64_t max_taps;
  std::vector<std::int64_t> first, taps;
  std::vector<std::int32_t> weights;  // [outputs, max_taps]
  int precision = 0;                  // weights are multiples of 2^-precision
};

Axis::Axis(std::int64_t inputs, std::int64_t outputs) {
  const double scale = static_cast<double>(inputs) / static_cast<double>(outputs);
  const double support = scale >= 1.0 ? 2.0 * scale : 2.0;
  const double inverse = scale >= 1.0 ? 1.0 / scale : 1.0;
  max_taps = static_cast<std::int64_t>(std::ceil(support)) * 2 + 1;
  std::vector<double> exact(static_cast<std::size_t>(outputs * max_taps));
  double largest = 0.0;
  for (std::int64_t i = 0; i < outputs; ++i) {
    const double center = scale * (static_cast<double>(i) + 0.5);
    // Casts truncate towards zero, as PyTorch's.
    const auto begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const auto end = std::min(static_cast<std::int64_t>(center + support + 0.5), inputs);
    const std::int64_t count = std::clamp<std::int64_t>(end - begin, 0, max_taps);
    double* row = exact.data() + i * max_taps;
    double total = 0.0;
    for (std::int64_t j = 0; j < count; ++j) {
      row[j] = cubic((static_cast<double>(j + begin) - center + 0.5) * inverse);
      total += row[j];
    }
    for (std::int64_t j = 0; j < count && total != 0.0; ++j) {
      row[j] /= total;
      largest = std::max(largest, row[j]);
    }
    first.push_back(begin);
    taps.push_back(count);
  }
  constexpr int kMaxPrecision = 22;
  while (precision < kMaxPrecision &&
         static_cast<int>(0.5 + largest * (1 << (precision + 1))) < 1 << 15) {
    ++precision;
  }
  weights.reserve(exact.size());
  for (const double weight : exact) {
    const double scaled = weight * (1 << precision);
    weights.push_back(static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5));
  }
}

std::uint8_t to_byte(std::int32_t sum, int precision) {
  return static_cast<std::uint8_t>(std::clamp(sum >> precision, 0, 255));
}

RgbImage resize_columns(const RgbImage& image, std::int64_t width) {
  const Axis axis(image.size.width, width);
  RgbImage out{{width, image.size.height}, {}};
  out.pixels.resize(static_cast<std::size_t>(width * image.size.height * 3));
  std::uint8_t* to = out.pixels.data();
  for (std::int64_t y = 0; y < image.size.height; ++y) {
    for (std::int64_t x = 0; x < width; ++x, to += 3) {
      const auto i = static_cast<std::size_t>(x);
      const std::uint8_t* from = image.row(y) + 3 * axis.first[i];
      const std::int32_t* weight = axis.weights.data() + x * axis.max_taps;
      std::int32_t sum[3];
      std::fill_n(sum, 3, 1 << (axis.precision - 1));
      for (std::int64_t j = 0; j < axis.taps[i]; ++j, from += 3) {
        for (int c = 0; c < 3; ++c) sum[c] += weight[j] * from[c];
      }
      for (int c = 0; c < 3; ++c) to[c] = to_byte(sum[c], axis.precision);
    }
  }
  return out;
}

RgbImage resize_rows(const RgbImage& image, std::int64_t height) {
  const Axis axis(image.size.height, height);
  const std::int64_t stride = image.size.width * 3;
  RgbImage out{{image.size.width, height}, {}};
  out.pixels.resize(static_cast<std::size_t>(stride * height));
  std::vector<std::int32_t> sums(static_cast<std::size_t>(stride));
  for (std::int64_t y = 0; y < height; ++y) {
    const auto i = static_cast<std::size_t>(y);
    std::fill(sums.begin(), sums.end(), 1 << (axis.precision - 1));
    for (std::int64_t j = 0; j < axis.taps[i]; ++j) {
      const std::int32_t weight = axis.weights[static_cast<std::size_t>(y * axis.max_taps + j)];
      const std::uint8_t* from = image.row(axis.first[i] + j);
      for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += weight * from[x];
    }
    std::uint8_t* to = out.pixels.data() + y * stride;
    for (std::size_t x = 0; x < sums.size(); ++x) to[x] = to_byte(sums[x], axis.precision);
  }
  return out;
}

}  // namespace

RgbImage resize_bicubic(const RgbImage& image, ImageSize size) {
  const bool columns = size.width != image.size.width;
  const bool rows = size.height != image.size.height;
  if (!columns) return rows ? resize_rows(image, size.height) : image;
  RgbImage narrow = resize_columns(image, size.width);
  return rows ? resize_rows(narrow, size.height) : narrow;
}

}  // namespace quern::vision
