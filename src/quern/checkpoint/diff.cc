// See diff.h.
#include "quern/checkpoint/diff.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <span>
#include <string_view>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/thread_team.h"
#include "quern/numerics/bf16.h"
#include "quern/numerics/fp16.h"
#include "quern/numerics/mxfp4.h"

namespace quern {
namespace {

// Values decoded at a time; a multiple of the MX block.
constexpr std::size_t kChunk = 4096;
static_assert(kChunk % kMxBlock == 0);

// A tensor whose values can be read as float32: floats, or MXFP4 with its scales.
class Values {
 public:
  // Empty when the tensor's dtype has no values that compare (integers, FP8).
  static std::optional<Values> of(const Checkpoint& checkpoint, std::string_view name) {
    const TensorView& view = checkpoint.get(name);
    const DType dtype = view.dtype;
    if (dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32) {
      return Values(view, nullptr, view.shape);
    }
    const TensorView* scale = checkpoint.find(fmt::format("{}_scale", name));
    if (dtype != DType::kU8 || scale == nullptr || view.shape.empty()) return std::nullopt;
    Shape shape = view.shape;
    shape.back() *= 2;
    Shape scale_shape = shape;
    scale_shape.back() /= static_cast<std::int64_t>(kMxBlock);
    const bool fits = shape.back() % static_cast<std::int64_t>(kMxBlock) == 0 &&
                      dtype_bytes(scale->dtype) == 1 && scale->shape == scale_shape;
    if (!fits) return std::nullopt;
    return Values(view, scale, std::move(shape));
  }

  bool is_mxfp4() const { return scale_ != nullptr; }
  const Shape& shape() const { return shape_; }
  std::string text() const {
    return fmt::format("{} {}", is_mxfp4() ? "MXFP4" : dtype_name(view_->dtype),
                       shape_text(shape_));
  }

  // Values [begin, begin + out.size()); begin is a multiple of kChunk.
  void read(std::size_t begin, std::span<float> out) const {
    const std::size_t count = out.size();
    if (is_mxfp4()) {
      mxfp4_decode_row({view_->as<std::uint8_t>() + begin / 2, count / 2},
                       {scale_->as<std::uint8_t>() + begin / kMxBlock, count / kMxBlock}, out);
    } else if (view_->dtype == DType::kBF16) {
      bf16_to_float({view_->as<BF16>() + begin, count}, out);
    } else if (view_->dtype == DType::kF16) {
      fp16_to_float({view_->as<FP16>() + begin, count}, out);
    } else {
      std::copy_n(view_->as<float>() + begin, count, out.begin());
    }
  }

 private:
  Values(const TensorView& view, const TensorView* scale, Shape shape)
      : view_(&view), scale_(scale), shape_(std::move(shape)) {}

  const TensorView* view_;
  const TensorView* scale_;
  Shape shape_;
};

std::string form_text(const TensorView& view) {
  return fmt::format("{} {}", dtype_name(view.dtype), shape_text(view.shape));
}

bool same_bytes(const TensorView* a, const TensorView* b) {
  return a != nullptr && b != nullptr && a->dtype == b->dtype && a->shape == b->shape &&
         std::memcmp(a->data, b->data, a->bytes()) == 0;
}

void compare_values(const Values& a, const Values& b, TensorDiff& diff) {
  std::array<float, kChunk> left;
  std::array<float, kChunk> right;
  const auto total = static_cast<std::size_t>(num_elements(a.shape()));
  double signal = 0.0;
  double noise = 0.0;
  for (std::size_t begin = 0; begin < total; begin += kChunk) {
    const std::size_t count = std::min(kChunk, total - begin);
    a.read(begin, std::span(left).first(count));
    b.read(begin, std::span(right).first(count));
    for (std::size_t i = 0; i < count; ++i) {
      const double x = left[i];
      const double y = right[i];
      // Equal covers equal infinities; NaN on both sides is no difference of values either.
      double error = x == y || (std::isnan(x) && std::isnan(y)) ? 0.0 : std::abs(x - y);
      if (std::isnan(error)) error = std::numeric_limits<double>::infinity();
      diff.max_abs_error = std::max(diff.max_abs_error, error);
      if (std::isfinite(x)) signal += x * x;
      noise += error * error;
    }
  }
  diff.sqnr_db =
      noise == 0.0 ? std::numeric_limits<double>::infinity() : 10.0 * std::log10(signal / noise);
}

// The weight that a scale belongs to, when the other side holds that weight unquantized: the scale
// is then part of the weight's comparison.
bool is_scale_of_compared_weight(const Checkpoint& own, const Checkpoint& other,
                                 std::string_view name) {
  constexpr std::string_view kSuffix = ".weight_scale";
  if (!name.ends_with(kSuffix)) return false;
  const std::string weight(name.substr(0, name.size() - std::string_view("_scale").size()));
  if (own.find(weight) == nullptr || other.find(weight) == nullptr) return false;
  const auto here = Values::of(own, weight);
  const auto there = Values::of(other, weight);
  return here && there && here->is_mxfp4() && !there->is_mxfp4() && here->shape() == there->shape();
}

void compare_tensor(const Checkpoint& a, const Checkpoint& b, TensorDiff& diff) {
  const TensorView& left = a.get(diff.name);
  const TensorView& right = b.get(diff.name);
  diff.a = form_text(left);
  diff.b = form_text(right);
  if (same_bytes(&left, &right)) return;
  diff.kind = TensorDiff::Kind::kForm;
  const std::optional<Values> x = Values::of(a, diff.name);
  const std::optional<Values> y = Values::of(b, diff.name);
  if (!x || !y || x->shape() != y->shape()) {
    // Same form, other bytes of a dtype without comparable values.
    if (left.dtype == right.dtype && left.shape == right.shape) {
      diff.kind = TensorDiff::Kind::kValues;
      diff.max_abs_error = diff.sqnr_db = std::numeric_limits<double>::quiet_NaN();
    }
    return;
  }
  diff.a = x->text();
  diff.b = y->text();
  diff.kind =
      x->is_mxfp4() != y->is_mxfp4() ? TensorDiff::Kind::kQuantized : TensorDiff::Kind::kValues;
  compare_values(*x, *y, diff);
}

bool ignored(const std::string& path, const std::vector<std::string>& ignore) {
  return std::any_of(ignore.begin(), ignore.end(), [&](const std::string& key) {
    return path.starts_with(key) &&
           (path.size() == key.size() || path[key.size()] == '.' || path[key.size()] == '[');
  });
}

void diff_json_at(const std::string& path, const Json* a, const Json* b,
                  const std::vector<std::string>& ignore, std::vector<std::string>& out) {
  if (ignored(path, ignore)) return;
  const auto child = [](const Json& value, const std::string& key) {
    const auto found = value.find(key);
    return found == value.end() ? nullptr : &*found;
  };
  if (a != nullptr && b != nullptr && a->is_object() && b->is_object()) {
    const std::string prefix = path.empty() ? "" : path + ".";
    for (const auto& [key, value] : a->items())
      diff_json_at(prefix + key, &value, child(*b, key), ignore, out);
    for (const auto& [key, value] : b->items()) {
      if (child(*a, key) == nullptr) diff_json_at(prefix + key, nullptr, &value, ignore, out);
    }
  } else if (a != nullptr && b != nullptr && a->is_array() && b->is_array()) {
    for (std::size_t i = 0; i < std::max(a->size(), b->size()); ++i) {
      diff_json_at(fmt::format("{}[{}]", path, i), i < a->size() ? &(*a)[i] : nullptr,
                   i < b->size() ? &(*b)[i] : nullptr, ignore, out);
    }
  } else if (a == nullptr || b == nullptr || *a != *b) {
    out.push_back(path);
  }
}

}  // namespace

std::size_t CheckpointDiff::count(TensorDiff::Kind kind) const {
  return static_cast<std::size_t>(std::count_if(
      tensors.begin(), tensors.end(), [&](const TensorDiff& diff) { return diff.kind == kind; }));
}

std::vector<std::string> diff_json(const Json& a, const Json& b,
                                   const std::vector<std::string>& ignore) {
  std::vector<std::string> paths;
  diff_json_at("", &a, &b, ignore, paths);
  return paths;
}

CheckpointDiff diff_checkpoints(const Checkpoint& a, const Checkpoint& b,
                                const DiffOptions& options) {
  CheckpointDiff result;
  result.config_keys = diff_json(a.config(), b.config(), options.ignore_config_keys);
  const auto add_only = [&](const Checkpoint& own, const Checkpoint& other,
                            const Checkpoint::Tensor& tensor, TensorDiff::Kind kind) {
    if (is_scale_of_compared_weight(own, other, tensor.name)) return;
    TensorDiff& diff = result.tensors.emplace_back();
    diff.name = tensor.name;
    diff.kind = kind;
    (kind == TensorDiff::Kind::kOnlyInA ? diff.a : diff.b) = form_text(tensor.view);
  };
  for (const Checkpoint::Tensor& tensor : a.tensors()) {
    if (b.find(tensor.name) == nullptr) {
      add_only(a, b, tensor, TensorDiff::Kind::kOnlyInA);
    } else {
      result.tensors.emplace_back().name = tensor.name;
    }
  }
  for (const Checkpoint::Tensor& tensor : b.tensors()) {
    if (a.find(tensor.name) == nullptr) add_only(b, a, tensor, TensorDiff::Kind::kOnlyInB);
  }

  ThreadTeam team(options.threads);
  team.parallel_for(static_cast<std::int64_t>(result.tensors.size()), 1,
                    [&](std::int64_t begin, std::int64_t end, int) {
                      for (std::int64_t i = begin; i < end; ++i) {
                        TensorDiff& diff = result.tensors[static_cast<std::size_t>(i)];
                        if (diff.kind == TensorDiff::Kind::kIdentical) compare_tensor(a, b, diff);
                      }
                    });
  return result;
}

}  // namespace quern
