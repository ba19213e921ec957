// Planning and writing of safetensors files; see safetensors.h.
#include <algorithm>
#include <array>
#include <cstring>
#include <tuple>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/json.h"
#include "quern/checkpoint/safetensors.h"

namespace quern {
namespace {

// The order of the `Dtype` enum of safetensors/src/tensor.rs, largest first: the library sorts by
// it "so that the alignment stays correct", and byte-identical files need exactly this order.
constexpr std::array kDtypeOrder{
    DType::kU64,    DType::kI64, DType::kF64, DType::kF32,  DType::kU32,    DType::kI32,
    DType::kBF16,   DType::kF16, DType::kU16, DType::kI16,  DType::kF8E8M0, DType::kF8E4M3,
    DType::kF8E5M2, DType::kI8,  DType::kU8,  DType::kBool,
};

std::size_t dtype_rank(DType dtype) {
  const auto* found = std::find(kDtypeOrder.begin(), kDtypeOrder.end(), dtype);
  QUERN_CHECK(found != kDtypeOrder.end());
  return static_cast<std::size_t>(found - kDtypeOrder.begin());
}

// A JSON string as serde_json writes it: UTF-8 kept, only control characters and '"', '\' escaped.
std::string json_string(const std::string& text) { return Json(text).dump(); }

}  // namespace

SafetensorsLayout plan_safetensors(std::vector<TensorSpec> specs) {
  std::sort(specs.begin(), specs.end(), [](const TensorSpec& a, const TensorSpec& b) {
    return std::tuple(dtype_rank(a.dtype), std::string_view(a.name)) <
           std::tuple(dtype_rank(b.dtype), std::string_view(b.name));
  });

  SafetensorsLayout layout;
  std::string json = "{";
  std::uint64_t offset = 0;
  for (TensorSpec& spec : specs) {
    const std::uint64_t begin = offset;
    offset += static_cast<std::uint64_t>(num_elements(spec.shape)) * dtype_bytes(spec.dtype);
    if (json.size() > 1) json += ',';
    json += fmt::format(R"({}:{{"dtype":"{}","shape":[)", json_string(spec.name),
                        dtype_name(spec.dtype));
    for (std::size_t i = 0; i < spec.shape.size(); ++i) {
      json += fmt::format("{}{}", i == 0 ? "" : ",", spec.shape[i]);
    }
    json += fmt::format(R"(],"data_offsets":[{},{}]}})", begin, offset);
    layout.tensors.push_back(
        {std::move(spec.name), spec.dtype, std::move(spec.shape), begin, offset});
  }
  json += '}';
  json.resize((json.size() + 7) / 8 * 8, ' ');
  if (json.size() > kMaxSafetensorsHeaderBytes) {
    throw Error("{} tensors need a header of {} bytes, more than the limit of {}", specs.size(),
                json.size(), kMaxSafetensorsHeaderBytes);
  }

  const std::uint64_t length = json.size();
  layout.prefix.resize(sizeof(length));
  std::memcpy(layout.prefix.data(), &length, sizeof(length));
  layout.prefix += json;
  for (TensorInfo& info : layout.tensors) {
    info.begin += layout.prefix.size();
    info.end += layout.prefix.size();
  }
  layout.file_bytes = layout.prefix.size() + offset;
  return layout;
}

SafetensorsWriter::SafetensorsWriter(const std::filesystem::path& path, SafetensorsLayout layout)
    : layout_(std::move(layout)), file_(path) {
  file_.write(layout_.prefix);
}

void SafetensorsWriter::write(std::span<const std::byte> bytes) {
  QUERN_CHECK(bytes.size() <= layout_.file_bytes - file_.written());
  file_.write(bytes);
}

void SafetensorsWriter::commit() {
  QUERN_CHECK(file_.written() == layout_.file_bytes, "{} of {} bytes written", file_.written(),
              layout_.file_bytes);
  file_.commit();
}

}  // namespace quern
