// See source_formats.h. Names and rules: AMD Quark 0.13, quantization/file2file_quantization.py;
// compressed-tensors, compressors/.
#include "quern/quantize/source_formats.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "quern/base/error.h"
#include "quern/checkpoint/config_reader.h"
#include "quern/quantize/fnmatch.h"
#include "quern/quantize/scheme.h"

namespace quern {
namespace {

constexpr std::string_view kKnownMethods =
    "fp8, mxfp8, compressed-tensors (pack-quantized, int-quantized, float-quantized, "
    "naive-quantized, mxfp4-pack-quantized) and quark (MXFP4 and FP8 weights)";

constexpr auto kCompressedFormats =
    std::to_array<std::string_view>({"pack-quantized", "int-quantized", "float-quantized",
                                     "naive-quantized", "mxfp4-pack-quantized"});

bool is_float(DType dtype) {
  return dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF32;
}

bool is_fp8(DType dtype) { return dtype == DType::kF8E4M3 || dtype == DType::kF8E5M2; }

// weight_shape: the restored shape, the one piece of data that a plan depends on.
std::int64_t last_dimension(const KernelInput& shape, const TensorInfo& codes) {
  const TensorInfo& tensor = shape.tensor;
  const std::size_t width = dtype_bytes(tensor.dtype);
  if ((tensor.dtype != DType::kI64 && tensor.dtype != DType::kI32) ||
      tensor.bytes() != codes.shape.size() * width) {
    throw Error("tensor '{}' {} {}: expected {} integers", tensor.name, dtype_name(tensor.dtype),
                shape_text(tensor.shape), codes.shape.size());
  }
  std::ifstream file(shape.file, std::ios::binary);
  file.seekg(static_cast<std::streamoff>(tensor.end - width));
  std::int64_t value = 0;
  file.read(reinterpret_cast<char*>(&value), static_cast<std::streamsize>(width));
  if (!file || value < 1 || value > ConfigReader::kMaxInteger) {
    throw Error("tensor '{}' of '{}': not a shape", tensor.name, shape.file.string());
  }
  return value;
}

std::string without_suffix(const std::string& text, std::string_view suffix) {
  return text.substr(0, text.size() - suffix.size());
}

}  // namespace

SourceFormats::SourceFormats(const Json& config, const TensorDirectory& tensors,
                             PreshardedWeights presharded, DType model_dtype)
    : tensors_(tensors), presharded_(std::move(presharded)), model_dtype_(model_dtype) {
  read_config(config);
  if (!method_.empty()) find_parts();
}

void SourceFormats::read_config(const Json& config) {
  const ConfigReader root(config, "config.json");
  auto reader = root.object("quantization_config");
  const auto text = root.object("text_config");
  if (!reader && text) reader = text->object("quantization_config");
  if (!reader) return;
  const bool in_root = root.has("quantization_config");
  quantization_ =
      in_root ? config["quantization_config"] : config["text_config"]["quantization_config"];
  reader->read("quant_method", method_);
  if (method_.empty()) {
    throw Error("config.json: quantization_config has no quant_method; known are {}",
                kKnownMethods);
  }
  if (method_ == "fp8" || method_ == "mxfp8") {
    std::vector<std::int64_t> block =
        method_ == "fp8" ? std::vector<std::int64_t>{128, 128} : std::vector<std::int64_t>{1, 32};
    reader->read("weight_block_size", block, 1, ConfigReader::kMaxInteger);
    if (block.size() != 2) reader->fail("weight_block_size", "expected two numbers");
    row_block_ = static_cast<std::uint64_t>(block[0]);
    column_block_ = static_cast<std::uint64_t>(block[1]);
    if (presharded_.empty() && reader->has("presharded_weights")) {
      const Json& map = *reader->value("presharded_weights");
      if (!map.is_object()) reader->fail("presharded_weights", "expected an object");
      for (const auto& [pattern, rows] : map.items()) {
        if (!rows.is_number_integer() || rows.get<std::int64_t>() < 1) {
          reader->fail("presharded_weights", "expected positive numbers of rows");
        }
        presharded_.emplace_back(pattern, rows.get<std::uint64_t>());
      }
    }
  } else if (method_ == "compressed-tensors") {
    reader->read("format", format_);
    if (std::ranges::count(kCompressedFormats, format_) == 0) {
      throw Error("config.json: quantization_config.format: \"{}\" is not known; known are {}",
                  format_, fmt::join(kCompressedFormats, ", "));
    }
    const ConfigReader groups = reader->required_object("config_groups");
    const ConfigReader group = groups.required_object("group_0");
    const ConfigReader weights = group.required_object("weights");
    for (const auto& [name, other] : reader->value("config_groups")->items()) {
      if (other.is_object() && other.contains("weights") &&
          other["weights"] != *group.value("weights")) {
        throw Error(
            "config.json: quantization_config.config_groups: {} stores weights in another "
            "way than group_0; only one way is supported",
            name);
      }
    }
    std::int64_t bits = 8;
    weights.read("num_bits", bits, 1, 8);
    bits_ = static_cast<int>(bits);
    weights.read("symmetric", symmetric_);
    std::vector<std::int64_t> block;
    weights.read("block_structure", block, 1, ConfigReader::kMaxInteger);
    row_block_ = block.size() == 2 ? static_cast<std::uint64_t>(block[0]) : 1;
    column_block_ = block.size() == 2 ? static_cast<std::uint64_t>(block[1]) : 0;
    std::int64_t group_size = 0;
    weights.read("group_size", group_size, -1, ConfigReader::kMaxInteger);
    if (block.empty() && group_size > 0) column_block_ = static_cast<std::uint64_t>(group_size);
  } else if (method_ == "quark") {
    row_block_ = 1;
    column_block_ = 0;
  } else {
    throw Error("config.json: quantization_config.quant_method: \"{}\" is not known; known are {}",
                method_, kKnownMethods);
  }
}

const KernelInput* SourceFormats::find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

SourceFormats::Parts* SourceFormats::add_part(const std::string& weight, const std::string& part) {
  if (!tensors_.contains(part)) return nullptr;
  companions_.insert(part);
  return &parts_[weight];
}

void SourceFormats::find_parts() {
  for (const auto& [name, input] : tensors_) {
    if (method_ == "compressed-tensors") {
      if (!name.ends_with(".weight") && !name.ends_with(".weight_packed")) continue;
      const std::string weight = weight_name(name);
      if (Parts* parts = add_part(name, weight + "_scale")) parts->scale = find(weight + "_scale");
      if (Parts* parts = add_part(name, weight + "_zero_point")) {
        parts->zero_point = find(weight + "_zero_point");
      }
      add_part(name, weight + "_shape");
      for (const char* unsupported : {"_g_idx", "_global_scale"}) {
        if (find(weight + unsupported) != nullptr) {
          throw Error("tensor '{}{}': compressed weights with it are not supported", weight,
                      unsupported);
        }
      }
      continue;
    }
    std::vector<std::string> scales = {name + "_scale_inv"};
    if (name.ends_with(".weight")) {
      scales.push_back(without_suffix(name, ".weight") + ".scale");
      scales.push_back(name + "_scale");
      if (method_ == "quark" && find(name + "_scale_2") != nullptr) {
        throw Error("tensor '{}_scale_2': weights with two scales are not supported as a source",
                    name);
      }
    }
    for (const std::string& scale : scales) {
      if (is_float(input.tensor.dtype) || find(scale) == nullptr) continue;
      add_part(name, scale)->scale = find(scale);
      break;
    }
  }
}

std::string SourceFormats::weight_name(const std::string& stored) {
  return stored.ends_with(".weight_packed") ? without_suffix(stored, "_packed") : stored;
}

const SourceFormats::Parts* SourceFormats::parts_of(const std::string& stored) const {
  const auto found = parts_.find(stored);
  return found == parts_.end() || found->second.scale == nullptr ? nullptr : &found->second;
}

bool SourceFormats::is_mxfp4(const KernelInput& stored, const Parts& parts) {
  const TensorInfo& codes = stored.tensor;
  const TensorInfo& scale = parts.scale->tensor;
  return (codes.dtype == DType::kU8 || codes.dtype == DType::kI8) && codes.shape.size() >= 2 &&
         (scale.dtype == DType::kF8E8M0 || scale.dtype == DType::kU8) && !scale.shape.empty() &&
         codes.shape.back() == 16 * scale.shape.back();
}

ScaledWeight SourceFormats::mxfp4(const KernelInput& stored, const Parts& parts) const {
  ScaledWeight weight;
  weight.name = weight_name(stored.tensor.name);
  weight.shape = stored.tensor.shape;
  weight.shape.back() *= 2;
  weight.dtype = model_dtype_;
  weight.format = CodeFormat::kE2M1;
  weight.codes = stored;
  weight.scales = *parts.scale;
  weight.column_block = 32;
  return weight;
}

// The grid of the scales from their number: one, a block each, or a row each.
void SourceFormats::set_grid(ScaledWeight& weight) const {
  const Shape& shape = weight.shape;
  const auto rows = static_cast<std::uint64_t>(num_elements(Shape(shape.begin(), shape.end() - 1)));
  const auto count = static_cast<std::uint64_t>(num_elements(weight.scales.tensor.shape));
  weight.row_period = shape.size() > 2 ? static_cast<std::uint64_t>(shape[shape.size() - 2]) : 0;
  for (const auto& [pattern, chunk_rows] : presharded_) {
    if (!fnmatch(weight.name, pattern)) continue;
    weight.row_period = chunk_rows;
    break;
  }
  weight.row_block = row_block_;
  weight.column_block = column_block_;
  if (count == 1) {
    weight.row_block = weight.column_block = weight.row_period = 0;
  } else if (count == rows && shape.back() > 1 && row_block_ != 1) {
    // As many scales as rows: a scale a row, unless the blocks say otherwise.
    const std::uint64_t period = weight.row_period == 0 ? rows : weight.row_period;
    const std::uint64_t blocks =
        rows / std::max<std::uint64_t>(period, 1) * ((period + row_block_ - 1) / row_block_);
    const auto columns = static_cast<std::uint64_t>(shape.back());
    if (blocks * ((columns + column_block_ - 1) / std::max<std::uint64_t>(column_block_, 1)) !=
        count) {
      weight.row_block = 1;
      weight.column_block = 0;
    }
  } else if (count == rows && row_block_ == 1 && method_ != "mxfp8") {
    weight.column_block = 0;
  }
}

ScaledWeight SourceFormats::one_byte(const KernelInput& stored, const Parts& parts) const {
  ScaledWeight weight;
  weight.name = stored.tensor.name;
  weight.shape = stored.tensor.shape;
  weight.format = stored.tensor.dtype == DType::kF8E4M3   ? CodeFormat::kE4M3
                  : stored.tensor.dtype == DType::kF8E5M2 ? CodeFormat::kE5M2
                                                          : CodeFormat::kInt8;
  weight.codes = stored;
  weight.scales = *parts.scale;
  weight.u8_is_e8m0 = method_ != "compressed-tensors";
  if (parts.zero_point != nullptr && !symmetric_) weight.zero_points = *parts.zero_point;
  set_grid(weight);
  return weight;
}

ScaledWeight SourceFormats::packed_integer(const KernelInput& stored, const Parts& parts) const {
  const std::string name = weight_name(stored.tensor.name);
  const TensorInfo& codes = stored.tensor;
  if (codes.dtype != DType::kI32 || codes.shape.size() < 2) {
    throw Error("tensor '{}' {} {}: expected packed I32 words", codes.name, dtype_name(codes.dtype),
                shape_text(codes.shape));
  }
  ScaledWeight weight;
  weight.name = name;
  weight.format = CodeFormat::kPackedInteger;
  weight.bits = bits_;
  weight.codes = stored;
  weight.scales = *parts.scale;
  weight.u8_is_e8m0 = false;
  weight.shape = codes.shape;
  const std::int64_t words = codes.shape.back();
  std::int64_t columns = words * 32 / bits_;
  if (const KernelInput* shape = find(name + "_shape")) columns = last_dimension(*shape, codes);
  if ((columns * bits_ + 31) / 32 != words) {
    throw Error("tensor '{}' {}: {} values of {} bits do not take {} words", codes.name,
                shape_text(codes.shape), columns, bits_, words);
  }
  weight.shape.back() = columns;
  if (parts.zero_point != nullptr && !symmetric_) weight.zero_points = *parts.zero_point;
  if (!symmetric_ && parts.zero_point == nullptr) {
    throw Error("tensor '{}_zero_point' is missing; the weights are not symmetric", name);
  }
  set_grid(weight);
  return weight;
}

std::unique_ptr<WeightSource> SourceFormats::restore(const KernelInput& stored) const {
  const TensorInfo& tensor = stored.tensor;
  if (is_float(tensor.dtype)) return make_plain_source(stored);
  if (method_.empty()) return nullptr;
  const Parts* parts = parts_of(tensor.name);
  const bool packed = tensor.name.ends_with(".weight_packed");
  if (parts == nullptr) {
    if (is_fp8(tensor.dtype) || packed) {
      throw Error("tensor '{}' {} {}: no scale of it is in the checkpoint", tensor.name,
                  dtype_name(tensor.dtype), shape_text(tensor.shape));
    }
    return nullptr;
  }
  if (tensor.shape.empty()) {
    throw Error("tensor '{}': a quantized weight needs dimensions", tensor.name);
  }
  if (format_ != "pack-quantized" && is_mxfp4(stored, *parts)) {
    return make_scaled_source(mxfp4(stored, *parts));
  }
  if (packed) {
    if (format_ != "pack-quantized") {
      throw Error("tensor '{}': packed weights are not part of the format {}", tensor.name,
                  format_);
    }
    return make_scaled_source(packed_integer(stored, *parts));
  }
  const bool integer = method_ == "compressed-tensors" && tensor.dtype == DType::kI8;
  if (is_fp8(tensor.dtype) || integer) return make_scaled_source(one_byte(stored, *parts));
  throw Error("tensor '{}' {} {}: not a form of weights known for quant_method {}", tensor.name,
              dtype_name(tensor.dtype), shape_text(tensor.shape), method_);
}

std::vector<std::unique_ptr<TensorKernel>> SourceFormats::keep(const KernelInput& stored) const {
  std::vector<std::unique_ptr<TensorKernel>> kernels;
  const TensorInfo& tensor = stored.tensor;
  const Parts* parts = parts_of(tensor.name);
  if (is_float(tensor.dtype) || parts == nullptr) return kernels;
  const std::string name = weight_name(tensor.name);
  // MXFP4 codes are U8 for readers of Quark's checkpoints.
  const DType dtype =
      tensor.dtype == DType::kI8 && is_mxfp4(stored, *parts) ? DType::kU8 : tensor.dtype;
  kernels.push_back(make_copy_kernel(stored, {name, dtype, tensor.shape}));
  const TensorInfo& scale = parts->scale->tensor;
  kernels.push_back(make_copy_kernel(*parts->scale, {name + "_scale", scale.dtype, scale.shape}));
  return kernels;
}

Json SourceFormats::kept_layer_config(const std::string& module, const KernelInput& stored) const {
  const Parts* parts = parts_of(stored.tensor.name);
  QUERN_CHECK(parts != nullptr);
  if (method_ == "quark") {
    if (quantization_.contains("layer_quant_config") &&
        quantization_["layer_quant_config"].is_object()) {
      for (const auto& [pattern, config] : quantization_["layer_quant_config"].items()) {
        if (fnmatch(module, pattern)) return config;
      }
    }
    return quantization_.value("global_quant_config", Json(nullptr));
  }
  if (is_mxfp4(stored, *parts)) return quark_layer_config(find_scheme("mxfp4"));
  if (method_ == "compressed-tensors") {
    throw Error(
        "keep_excluded_layers_as_original_model_state: Quark's config has no words for "
        "compressed-tensors {}; only for mxfp4-pack-quantized",
        format_);
  }
  return quark_block_fp8_layer_config(quantization_, method_ == "mxfp8");
}

}  // namespace quern
