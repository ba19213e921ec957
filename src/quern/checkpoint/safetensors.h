// The safetensors container: header parsing with every check, a mapped reader, a streaming writer.
// Must never trust a header: offsets, shapes and sizes are proved against the file before use.
// Proved by tests/checkpoint/safetensors_test.cc and tests/checkpoint/hostile_safetensors_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "quern/base/dtype.h"
#include "quern/base/file.h"
#include "quern/base/tensor_view.h"

namespace quern {

// The format's own limit on the JSON header (safetensors README, "Format").
inline constexpr std::uint64_t kMaxSafetensorsHeaderBytes = 100'000'000;

// One tensor of a file: its bytes are [begin, end) of the file.
struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  std::uint64_t bytes() const { return end - begin; }
};

// What the first bytes of a file say. The tensors cover [data_begin, file_bytes) without gap or
// overlap.
struct SafetensorsHeader {
  std::vector<TensorInfo> tensors;  // in the order of the JSON text
  std::uint64_t data_begin = 0;
  std::uint64_t file_bytes = 0;
};

// Parses and proves a header. `json` is the text between the 8-byte length and the data.
SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t file_bytes);

// Reads only the header, by read(2): no mapping, memory bounded by the header. Errors name the
// file.
SafetensorsHeader read_safetensors_header(const std::filesystem::path& path);
// The bytes in front of the data: the length, checked, and the JSON text, not parsed.
std::string read_safetensors_prefix(const std::filesystem::path& path);

// A mapped file. Immutable, so safe to share between threads; views live as long as the object.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::filesystem::path& path);
  SafetensorsFile(SafetensorsFile&&) noexcept = default;
  SafetensorsFile& operator=(SafetensorsFile&&) noexcept = default;

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<TensorInfo>& tensors() const { return header_.tensors; }
  const SafetensorsHeader& header() const { return header_; }
  // The bytes in front of the data: the length and the JSON text.
  std::span<const std::byte> header_bytes() const;
  // The bytes of all tensors.
  std::span<const std::byte> data() const;

  // nullptr when there is no tensor of that name.
  const TensorInfo* find(std::string_view name) const;
  // `info` must be one of tensors(). The data is aligned for its dtype.
  TensorView view(const TensorInfo& info) const;

 private:
  MappedFile file_;
  SafetensorsHeader header_;
  std::unordered_map<std::string_view, std::size_t> by_name_;  // keys point into header_
};

// What a writer needs to know before the first byte: name, dtype and shape of each tensor.
struct TensorSpec {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
};

// A file to be written, byte offsets included.
struct SafetensorsLayout {
  std::string prefix;               // the 8-byte length and the padded JSON header
  std::vector<TensorInfo> tensors;  // in the order of their bytes
  std::uint64_t file_bytes = 0;
};

// The layout of the `safetensors` library (safetensors/src/tensor.rs, `prepare`): tensors by dtype,
// wider ones first, then by name; compact JSON without `__metadata__`, padded with spaces to 8
// bytes.
SafetensorsLayout plan_safetensors(std::vector<TensorSpec> specs);

// Writes a planned file front to back; the file appears under its name only at commit().
class SafetensorsWriter {
 public:
  SafetensorsWriter(const std::filesystem::path& path, SafetensorsLayout layout);

  const SafetensorsLayout& layout() const { return layout_; }
  // The next bytes of the data, in the order of layout().tensors; pieces may end anywhere.
  void write(std::span<const std::byte> bytes);
  // All bytes must have been written.
  void commit();

 private:
  SafetensorsLayout layout_;
  AtomicFile file_;
};

}  // namespace quern
