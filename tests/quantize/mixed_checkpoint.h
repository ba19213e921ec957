// The checkpoint of tools/quark_mixed.py, value for value.
// Must never change alone: tests/golden/quark_hashes.json holds the hashes of both sides.
// Proved by tests/quantize/quark_test.cc, which checks the hash of what this writes.
#pragma once

#include <array>
#include <bit>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/base/tensor_view.h"

namespace quern::test {

struct MixedTensor {
  std::string name;
  DType dtype;
  Shape shape;
};

inline std::vector<MixedTensor> mixed_tensors(std::int64_t rows, std::int64_t cols) {
  const std::string layer = "language_model.model.layers.0.";
  const std::string moe = layer + "block_sparse_moe.";
  std::vector<MixedTensor> table;
  for (int e = 0; e < 10; ++e) {
    table.push_back(
        {moe + "experts." + std::to_string(e) + ".w1.weight", DType::kBF16, {rows, cols}});
  }
  table.push_back({moe + "experts.10.w1.weight", DType::kF16, {rows, cols}});
  table.push_back({moe + "experts.11.w1.weight", DType::kF32, {rows, cols}});
  table.push_back({moe + "experts.11.w2.weight", DType::kBF16, {cols, rows}});
  table.push_back({moe + "conv.weight", DType::kBF16, {3, rows, cols / 8}});
  table.push_back({moe + "gate.weight", DType::kF32, {8, cols}});
  table.push_back({moe + "layer_scale.weight", DType::kF32, {cols}});
  table.push_back({layer + "input_layernorm.weight", DType::kF32, {cols}});
  table.push_back({layer + "self_attn.q_proj.weight", DType::kBF16, {rows, cols}});
  table.push_back({"language_model.model.embed_tokens.weight", DType::kBF16, {rows, cols}});
  return table;
}

inline std::uint64_t splitmix64(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Bits of the binary32 value `i` of tensor `tensor`.
inline std::uint32_t mixed_bits(std::uint64_t tensor, std::uint64_t i) {
  constexpr std::array<float, 8> kTies = {6.0f, 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f};
  const std::uint64_t h = splitmix64((tensor << 40) + i);
  const std::uint64_t b = splitmix64(~((tensor << 40) + i / 32));
  const auto field = static_cast<std::int64_t>((b >> 8) % 255);
  const auto mantissa = static_cast<std::int64_t>(h >> 8 & 0x7FFFFF);
  const auto spread = static_cast<std::int64_t>(h >> 32 & 7);
  const bool first = i % 32 == 0;
  const std::int64_t tie = std::int64_t{std::bit_cast<std::int32_t>(
                               kTies[static_cast<std::size_t>(first ? 0 : spread)])} +
                           (field % 200 + 25 - 127) * (1 << 23);
  const std::int64_t beside = static_cast<std::int64_t>(h >> 40 & 1) * 0x20000 - 0x10000;
  const std::int64_t outlier = (h >> 48 & 31) == 0 ? 60 : 0;
  std::int64_t bits = 0;
  switch (b & 7) {
    case 0:
      break;
    case 1:
      bits = std::min<std::int64_t>(spread, 2) << 23 | mantissa;
      break;
    case 2:
      bits = (60 + field % 100 + outlier - spread) << 23 | mantissa;
      break;
    case 3:
      bits = tie;
      break;
    case 4:
      bits = tie + (first ? 0 : beside);
      break;
    case 5:
      bits = std::max<std::int64_t>(field - spread, 0) << 23 | mantissa;
      break;
    default:
      bits = (118 - spread + field % 4) << 23 | mantissa;
  }
  return static_cast<std::uint32_t>(bits) | static_cast<std::uint32_t>(h & 1) << 31;
}

inline void append_value(std::string& data, DType dtype, std::uint32_t bits) {
  if (dtype == DType::kF32) {
    data.append(reinterpret_cast<const char*>(&bits), 4);
    return;
  }
  std::uint32_t half =
      dtype == DType::kBF16 ? bits >> 16 : (bits >> 13 & 0x7FFF) | (bits >> 16 & 0x8000);
  if (dtype == DType::kF16 && (half & 0x7C00) == 0x7C00) half &= 0xBFFF;
  const auto narrow = static_cast<std::uint16_t>(half);
  data.append(reinterpret_cast<const char*>(&narrow), 2);
}

inline void write_mixed_checkpoint(const std::filesystem::path& directory, std::int64_t rows,
                                   std::int64_t cols) {
  std::filesystem::create_directories(directory);
  const auto table = mixed_tensors(rows, cols);
  constexpr std::size_t kFirstShard = 8;
  for (std::size_t shard = 0; shard < 2; ++shard) {
    Json header;
    std::string data;
    for (std::size_t t = shard == 0 ? 0 : kFirstShard;
         t < (shard == 0 ? kFirstShard : table.size()); ++t) {
      const std::size_t begin = data.size();
      const auto count = static_cast<std::uint64_t>(num_elements(table[t].shape));
      for (std::uint64_t i = 0; i < count; ++i)
        append_value(data, table[t].dtype, mixed_bits(t, i));
      header[table[t].name] = {{"dtype", dtype_name(table[t].dtype)},
                               {"shape", table[t].shape},
                               {"data_offsets", {begin, data.size()}}};
    }
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    std::uint64_t length = text.size();
    std::string file(reinterpret_cast<const char*>(&length), 8);
    write_file(directory / ("model-0000" + std::to_string(shard + 1) + "-of-00002.safetensors"),
               file + text + data);
  }
  write_file(directory / "config.json",
             R"({"model_type": "minimax_m3_vl", "torch_dtype": "bfloat16"})");
}

}  // namespace quern::test
