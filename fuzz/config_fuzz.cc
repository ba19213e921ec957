// config.json, generation_config.json and preprocessor_config.json, and the tensors that they
// promise. Must never let a number out of its range pass into sizes, or list tensors without end.
// Proved by Fuzz.config and by running it under libFuzzer (fuzz/README.md).
#include "fuzz/fuzz_target.h"
#include "quern/checkpoint/model_config.h"
#include "quern/checkpoint/validate.h"

namespace {

using namespace quern;

void use(const ModelConfig& config) {
  const TextConfig& text = config.text_config;
  fuzz::accepts([&] { check_supported(config); });
  fuzz::accepts([&] { check_vision_supported(config); });
  for (const std::int64_t layer : {std::int64_t{0}, text.num_hidden_layers - 1}) {
    config.is_moe_layer(layer);
    config.is_sparse_attention_layer(layer);
  }
  if (config.quantization_config) {
    for (const char* module : {"lm_head", "language_model.model.layers.0.mlp.gate_proj",
                               "model.layers.3.block_sparse_moe.experts.1.w1", ""}) {
      config.quantization_config->scheme_for(module);
    }
  }
  // A list of every tensor: only of models that are small enough to list.
  const std::int64_t vision = config.vision_config ? config.vision_config->num_hidden_layers : 0;
  if (text.num_hidden_layers <= 8 && text.num_local_experts <= 8 && vision <= 8) {
    fuzz::accepts([&] {
      for (const ExpectedTensor& tensor : expected_tensors(config)) num_elements(tensor.shape);
    });
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Json json;
  if (!fuzz::accepts([&] { json = parse_json(fuzz::text_of(data, size), "config.json"); }))
    return 0;
  fuzz::accepts([&] { use(parse_model_config(json)); });
  fuzz::accepts([&] { parse_generation_config(json); });
  fuzz::accepts([&] { parse_preprocessor_config(json); });
  return 0;
}
