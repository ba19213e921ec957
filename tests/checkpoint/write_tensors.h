// Safetensors files for tests, written with the library's own writer or byte by byte.
// Must never check anything: hostile files are made here.
// Proved by use.
#pragma once

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "quern/base/file.h"
#include "quern/checkpoint/safetensors.h"

namespace quern::test {

struct TestTensor {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;
  std::string bytes;
};

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T));
}

inline void write_tensors(const std::filesystem::path& path,
                          const std::vector<TestTensor>& tensors) {
  std::vector<TensorSpec> specs;
  for (const TestTensor& tensor : tensors)
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(path, plan_safetensors(std::move(specs)));
  for (const TensorInfo& info : writer.layout().tensors) {
    for (const TestTensor& tensor : tensors) {
      if (tensor.name == info.name) writer.write(std::as_bytes(std::span(tensor.bytes)));
    }
  }
  writer.commit();
}

// A file of exactly this header and data; `length` replaces the length of the header.
inline std::string raw_file(std::string_view json, std::string_view data, std::uint64_t length) {
  std::string file(sizeof(length), '\0');
  std::memcpy(file.data(), &length, sizeof(length));
  return file.append(json).append(data);
}
inline std::string raw_file(std::string_view json, std::string_view data) {
  return raw_file(json, data, json.size());
}

}  // namespace quern::test
