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
#include "quern/checkpoint/stored_values.h"
#include "quern/numerics/mxfp4.h"

namespace quern {
namespace {

// Values decoded at a time; a multiple of the MX block.
constexpr std::size_t kChunk = 4096;
static_assert(kChunk % kMxBlock == 0);

std::string form_text(const TensorView& view) {
  return fmt::format("{} {}", dtype_name(view.dtype), shape_text(view.shape));
}

bool same_bytes(const TensorView* a, const TensorView* b) {
  return a != nullptr && b != nullptr && a->dtype == b->dtype && a->shape == b->shape &&
         std::memcmp(a->data, b->data, a->bytes()) == 0;
}

void compare_values(const StoredValues& a, const StoredValues& b, TensorDiff& diff) {
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

constexpr std::array<std::string_view, 3> kScaleSuffixes = {"_scale", "_scale_2", "_scale_inv"};

// Scales that only one side has, of a weight whose values are compared: part of that comparison.
bool is_scale_of_compared_weight(const Checkpoint& own, const Checkpoint& other,
                                 std::string_view name) {
  for (const std::string_view suffix : kScaleSuffixes) {
    if (!name.ends_with(suffix)) continue;
    const std::string_view weight = name.substr(0, name.size() - suffix.size());
    if (own.find(weight) == nullptr || other.find(weight) == nullptr) continue;
    const auto here = StoredValues::of(own, weight);
    const auto there = StoredValues::of(other, weight);
    if (here && there && here->is_quantized() && here->shape() == there->shape()) return true;
  }
  return false;
}

// Codes mean what their scales say: equal ones are equal weights where the scales stand under the
// same names, and so are compared by themselves.
bool scales_have_equal_names(const Checkpoint& a, const Checkpoint& b, const std::string& weight) {
  return std::ranges::all_of(kScaleSuffixes, [&](std::string_view suffix) {
    const std::string name = weight + std::string(suffix);
    return (a.find(name) == nullptr) == (b.find(name) == nullptr);
  });
}

void compare_tensor(const Checkpoint& a, const Checkpoint& b, TensorDiff& diff) {
  const TensorView& left = a.get(diff.name);
  const TensorView& right = b.get(diff.name);
  diff.a = form_text(left);
  diff.b = form_text(right);
  if (same_bytes(&left, &right) && scales_have_equal_names(a, b, diff.name)) return;
  diff.kind = TensorDiff::Kind::kForm;
  const std::optional<StoredValues> x = StoredValues::of(a, diff.name);
  const std::optional<StoredValues> y = StoredValues::of(b, diff.name);
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
  diff.kind = x->is_quantized() != y->is_quantized() ? TensorDiff::Kind::kQuantized
                                                     : TensorDiff::Kind::kValues;
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
