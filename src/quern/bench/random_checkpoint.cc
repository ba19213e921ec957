// See random_checkpoint.h.
#include "quern/bench/random_checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <iterator>
#include <unordered_map>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/split_mix.h"
#include "quern/base/thread_team.h"
#include "quern/bench/byte_tokenizer.h"
#include "quern/checkpoint/model_config.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/numerics/bf16.h"
#include "quern/quantize/output_directory.h"
#include "quern/quantize/scheme.h"

namespace quern::bench {
namespace {

constexpr std::string_view kLayers = "language_model.model.layers.";

// What a tensor's values look like, by a part of its name; the first that fits counts. A matrix of
// gain g has variance g^2 / inputs: outputs have g^2 times the variance of the inputs.
struct Look {
  std::string_view part;
  double gain;
  bool is_f32 = false;
};
constexpr Look kLooks[] = {
    {"embed_tokens.", 1.0},
    {"lm_head.", 2.0},  // logits with a deviation of 2: no word wins always
    // Router scores with a deviation of 1, so that each expert is somebody's choice.
    {"block_sparse_moe.gate.", 1.0, true},
    {"e_score_correction_bias", 0.02, true},
    {"norm.", 0.1},  // Gemma's norms multiply by 1 + weight
    // What a layer adds to the residual stream is small, as in a trained model: it does not grow
    // with the number of layers.
    {"o_proj.", 0.2},
    {"down_proj.", 0.2},
    {".w2.", 0.2},
    {"", 1.0},
};

const Look& look_of(std::string_view tensor) {
  return *std::ranges::find_if(
      kLooks, [&](const Look& look) { return tensor.find(look.part) != std::string_view::npos; });
}

DType dtype_of(const ExpectedTensor& tensor) {
  if (tensor.kind != ExpectedTensor::Kind::kFloat) return DType::kU8;
  return look_of(tensor.name).is_f32 ? DType::kF32 : DType::kBF16;
}

std::uint64_t bytes_of(const ExpectedTensor& tensor) {
  return static_cast<std::uint64_t>(num_elements(tensor.shape)) * dtype_bytes(dtype_of(tensor));
}

// FNV-1a, 64 bits (draft-eastlake-fnv).
std::uint64_t name_hash(std::string_view text) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3U;
  return hash;
}

// Standard deviation of a tensor's values; vectors and the embedding have no inputs to sum over.
double deviation(const ExpectedTensor& tensor) {
  const Look& look = look_of(tensor.name);
  if (tensor.shape.size() < 2 || look.part == "embed_tokens.") return look.gain;
  const auto inputs = static_cast<double>(tensor.shape[1]) *
                      (tensor.kind == ExpectedTensor::Kind::kE8M0Scale ? 32 : 1);
  return look.gain / std::sqrt(inputs);
}

// out = make(word) for one word after another; Bytes: of a word in the tensor.
template <std::size_t Bytes, typename Make>
void fill_words(std::uint64_t place, std::span<std::byte> out, Make&& make) {
  std::size_t at = 0;
  for (; at + Bytes <= out.size(); at += Bytes) {
    const auto value = make(split_mix64(place++));
    static_assert(sizeof(value) == Bytes);
    std::memcpy(out.data() + at, &value, Bytes);
  }
  if (at == out.size()) return;
  const auto value = make(split_mix64(place));
  std::memcpy(out.data() + at, &value, out.size() - at);
}

// 16 bits as an odd multiple of 2^-16 in +-1, times scale.
float uniform(std::uint64_t word, int index, float scale) {
  const auto bits = static_cast<std::int16_t>(word >> (16 * index));
  return (static_cast<float>(bits) + 0.5F) * scale;
}

// Bytes of E8M0 scales such that uniform E2M1 codes times them have the wanted variance: e or
// e + 1, chosen so often that the mean square is right.
struct ScaleBytes {
  std::uint8_t low;
  std::uint32_t high_of_256;  // how many of 256 bytes are low + 1

  explicit ScaleBytes(double wanted_deviation) {
    constexpr double kMeanSquareOfCodes = 8.5625;  // of 0, 0.5, 1, 1.5, 2, 3, 4, 6
    const double square = wanted_deviation * wanted_deviation / kMeanSquareOfCodes;
    int twice = 0;
    std::frexp(square, &twice);  // 2^(twice-1) <= square < 2^twice
    const int exponent = (twice - 1) >> 1;
    const double above = std::ldexp(square, -2 * exponent);  // 1 .. 4
    high_of_256 = static_cast<std::uint32_t>(std::lround(256 * (above - 1) / 3));
    low = static_cast<std::uint8_t>(127 + exponent);
  }

  std::uint64_t operator()(std::uint64_t word) const {
    std::uint64_t bytes = 0;
    for (int i = 0; i < 64; i += 8) {
      const std::uint64_t byte = low + std::uint64_t{(word >> i & 255) < high_of_256};
      bytes |= byte << i;
    }
    return bytes;
  }
};

std::int64_t words_of(std::uint64_t bytes, DType dtype) {
  const std::uint64_t word_bytes = dtype == DType::kF32 ? 16 : 8;
  return static_cast<std::int64_t>((bytes + word_bytes - 1) / word_bytes);
}

Json text_config(const RandomCheckpointOptions& o) {
  Json is_sparse = Json::array();
  for (std::int64_t layer = 0; layer < o.dense_layers + o.sparse_layers; ++layer)
    is_sparse.push_back(layer < o.dense_layers ? 0 : 1);
  return {{"architectures", Json::array({"MiniMaxM3SparseForCausalLM"})},
          {"vocab_size", o.vocab_size},
          {"hidden_size", o.hidden_size},
          {"intermediate_size", o.intermediate_size},
          {"dense_intermediate_size", o.dense_intermediate_size},
          {"shared_intermediate_size", o.intermediate_size},
          {"num_hidden_layers", is_sparse.size()},
          {"num_attention_heads", o.num_attention_heads},
          {"num_key_value_heads", o.num_key_value_heads},
          {"head_dim", o.head_dim},
          {"max_position_embeddings", o.max_position_embeddings},
          {"rms_norm_eps", 1e-6},
          {"use_gemma_norm", true},
          {"attention_output_gate", false},
          {"rope_theta", 5000000},
          {"rotary_dim", o.rotary_dim},
          {"use_qk_norm", true},
          {"qk_norm_type", "per_head"},
          {"tie_word_embeddings", false},
          {"num_local_experts", o.num_local_experts},
          {"num_experts_per_tok", o.num_experts_per_tok},
          {"n_shared_experts", 1},
          {"scoring_func", "sigmoid"},
          {"use_routing_bias", true},
          {"routed_scaling_factor", 2.0},
          {"moe_layer_freq", is_sparse},
          {"hidden_act", "swigluoai"},
          {"swiglu_alpha", 1.702},
          {"swiglu_limit", 7.0},
          {"bos_token_id", byte_tokenizer_bos(o.vocab_size)},
          {"eos_token_id", byte_tokenizer_eos(o.vocab_size)},
          {"sparse_attention_config",
           {{"use_sparse_attention", true},
            {"sparse_index_dim", o.sparse_index_dim},
            {"sparse_num_index_heads", o.num_key_value_heads},
            {"sparse_topk_blocks", o.sparse_topk_blocks},
            {"sparse_block_size", 128},
            {"sparse_score_type", "max"},
            {"sparse_init_block", 0},
            {"sparse_local_block", 1},
            {"sparse_disable_index_value", is_sparse},
            {"sparse_attention_freq", is_sparse}}}};
}

bool is_expert(std::string_view tensor) {
  return tensor.find("experts.") != std::string_view::npos;  // routed and shared
}

// Modules that stay BF16, as `quern quantize` lists them: matrices but those of experts and the
// embedding.
std::vector<std::string> unquantized_modules(const ModelConfig& config) {
  constexpr std::string_view kWeight = ".weight";
  std::vector<std::string> modules;
  for (const ExpectedTensor& tensor : expected_tensors(config)) {
    const bool linear = tensor.shape.size() == 2 && tensor.name.ends_with(kWeight) &&
                        tensor.name.find("embed_tokens.") == std::string::npos;
    if (linear && !is_expert(tensor.name))
      modules.push_back(tensor.name.substr(0, tensor.name.size() - kWeight.size()));
  }
  return modules;
}

// The tensors of one file; the first file holds what is outside the layers.
struct Shard {
  std::string name;
  std::vector<ExpectedTensor> tensors;
};

std::vector<Shard> plan_shards(const RandomCheckpointOptions& options) {
  std::vector<Shard> shards(static_cast<std::size_t>(options.dense_layers + options.sparse_layers) +
                            1);
  for (std::size_t i = 0; i < shards.size(); ++i)
    shards[i].name = fmt::format("model-{:05}-of-{:05}.safetensors", i + 1, shards.size());
  const ModelConfig config = parse_model_config(random_checkpoint_config(options));
  for (ExpectedTensor& tensor : expected_tensors(config)) {
    const bool of_layer = tensor.name.starts_with(kLayers);
    const std::size_t shard = of_layer ? std::stoul(tensor.name.substr(kLayers.size())) + 1 : 0;
    shards[shard].tensors.push_back(std::move(tensor));
  }
  return shards;
}

// Streams a shard through `buffer`, each piece filled by all threads.
void write_shard(const std::filesystem::path& path, const Shard& shard, std::uint64_t seed,
                 ThreadTeam& team, std::span<std::byte> buffer,
                 const std::function<void(std::uint64_t)>& progress) {
  constexpr std::int64_t kGrainWords = 1 << 14;
  std::unordered_map<std::string_view, const ExpectedTensor*> by_name;
  std::vector<TensorSpec> specs;
  for (const ExpectedTensor& tensor : shard.tensors) {
    by_name[tensor.name] = &tensor;
    specs.push_back({tensor.name, dtype_of(tensor), tensor.shape});
  }
  SafetensorsWriter writer(path, plan_safetensors(std::move(specs)));
  for (const TensorInfo& info : writer.layout().tensors) {
    const ExpectedTensor& tensor = *by_name.at(info.name);
    const std::size_t word_bytes = info.dtype == DType::kF32 ? 16 : 8;
    for (std::uint64_t begin = 0; begin < info.bytes(); begin += buffer.size()) {
      const auto out = buffer.first(std::min<std::uint64_t>(buffer.size(), info.bytes() - begin));
      const auto first = static_cast<std::int64_t>(begin / word_bytes);
      team.parallel_for(words_of(out.size(), info.dtype), kGrainWords,
                        [&](std::int64_t from, std::int64_t to, int) {
                          const std::size_t at = static_cast<std::size_t>(from) * word_bytes;
                          const std::size_t end =
                              std::min(static_cast<std::size_t>(to) * word_bytes, out.size());
                          fill_random_tensor(tensor, seed, first + from, out.subspan(at, end - at));
                        });
      writer.write(out);
      if (progress) progress(out.size());
    }
  }
  writer.commit();
}

std::string index_text(const std::vector<Shard>& shards) {
  std::uint64_t total = 0;
  std::string map;
  for (const Shard& shard : shards) {
    for (const ExpectedTensor& tensor : shard.tensors) {
      map +=
          fmt::format("{}    \"{}\": \"{}\"", map.empty() ? "\n" : ",\n", tensor.name, shard.name);
      total += bytes_of(tensor);
    }
  }
  return fmt::format(
      "{{\n  \"metadata\": {{\"total_size\": {}}},\n  \"weight_map\": {{{}\n  }}\n}}\n", total,
      map);
}

}  // namespace

void check_options(const RandomCheckpointOptions& o) {
  constexpr std::int64_t kMaxLayers = 1000, kMaxExperts = 4096, kMaxWords = 1 << 24;
  const auto check = [](const char* name, std::int64_t value, std::int64_t low, std::int64_t high) {
    if (value >= low && value <= high) return;
    throw Error("{} must be from {} to {}, got {}", name, low, high, value);
  };
  check("dense_layers", o.dense_layers, 0, kMaxLayers);
  check("sparse_layers", o.sparse_layers, 0, kMaxLayers);
  check("dense_layers + sparse_layers", o.dense_layers + o.sparse_layers, 1, kMaxLayers);
  check("num_local_experts", o.num_local_experts, o.num_experts_per_tok, kMaxExperts);
  check("vocab_size", o.vocab_size, kMinByteVocabulary, kMaxWords);
}

Json random_checkpoint_config(const RandomCheckpointOptions& options) {
  Json config = {{"architectures", Json::array({"MiniMaxM3SparseForConditionalGeneration"})},
                 {"model_type", "minimax_m3_vl"},
                 {"torch_dtype", "bfloat16"},
                 {"text_config", text_config(options)}};
  if (!options.mxfp4) return config;
  const auto modules = unquantized_modules(parse_model_config(config));
  return quantized_config(std::move(config),
                          quark_quantization_config(find_scheme("mxfp4"), modules, {}));
}

void fill_random_tensor(const ExpectedTensor& tensor, std::uint64_t seed, std::int64_t first_word,
                        std::span<std::byte> out) {
  const std::uint64_t place =
      split_mix64(name_hash(tensor.name) ^ seed) + static_cast<std::uint64_t>(first_word);
  switch (tensor.kind) {
    case ExpectedTensor::Kind::kPackedMxfp4:  // every code equally often
      return fill_words<8>(place, out, [](std::uint64_t word) { return word; });
    case ExpectedTensor::Kind::kE8M0Scale:
      return fill_words<8>(place, out, ScaleBytes(deviation(tensor)));
    case ExpectedTensor::Kind::kFloat:
      break;
  }
  // Uniform in +-sqrt(3) deviations.
  const auto scale = static_cast<float>(deviation(tensor) * std::sqrt(3.0) / 32768);
  if (dtype_of(tensor) == DType::kF32) {
    return fill_words<16>(place, out, [scale](std::uint64_t word) {
      return std::array{uniform(word, 0, scale), uniform(word, 1, scale), uniform(word, 2, scale),
                        uniform(word, 3, scale)};
    });
  }
  fill_words<8>(place, out, [scale](std::uint64_t word) {
    return std::array{
        float_to_bf16(uniform(word, 0, scale)), float_to_bf16(uniform(word, 1, scale)),
        float_to_bf16(uniform(word, 2, scale)), float_to_bf16(uniform(word, 3, scale))};
  });
}

std::uint64_t random_checkpoint_bytes(const RandomCheckpointOptions& options) {
  std::uint64_t bytes = 0;
  for (const Shard& shard : plan_shards(options))
    for (const ExpectedTensor& tensor : shard.tensors) bytes += bytes_of(tensor);
  return bytes;
}

void write_random_checkpoint(const std::filesystem::path& directory,
                             const RandomCheckpointOptions& options, int threads,
                             const std::function<void(std::uint64_t)>& progress) {
  check_options(options);
  const auto config_path = directory / "config.json";
  if (std::filesystem::exists(config_path)) {
    throw Error("'{}' holds a checkpoint already; choose another directory or remove it",
                directory.string());
  }
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) throw Error("cannot create '{}': {}", directory.string(), error.message());
  check_free_space(directory, random_checkpoint_bytes(options));
  const std::vector<Shard> shards = plan_shards(options);
  ThreadTeam team(threads);
  std::vector<std::byte> buffer(std::size_t{16} << 20);
  for (const Shard& shard : shards)
    write_shard(directory / shard.name, shard, options.seed, team, buffer, progress);
  write_file(directory / "model.safetensors.index.json", index_text(shards));
  write_byte_tokenizer(directory, options.vocab_size);
  write_file(config_path, random_checkpoint_config(options).dump(2) + "\n");
}

}  // namespace quern::bench
