// What the base model said to the texts of a comparison, in a file, so that base and quantized
// model need not be in memory at once: logits, and per layer hidden states, chosen experts and
// blocks. Must never trust a file: names, types, shapes and token ids are proved before use. Proved
// by tests/eval/divergence_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/checkpoint/safetensors.h"
#include "quern/eval/divergence_text.h"
#include "quern/eval/logit_model.h"

namespace quern {

// A safetensors file. With T tokens of all texts together, S of them scored:
//   token_ids I32 [T], text_ends I64 [texts], first_scored I64 [texts]
//   logits F32 [S, vocab]        row i predicts the i-th scored token
//   hidden.LAYER F32 [T, hidden], experts.LAYER I32 [T, k], blocks.LAYER I32 [T, kv_heads, topk]
// Written as PATH.part, renamed when whole. `with_layers` false leaves the last line out.
void write_base_record(const std::filesystem::path& path, LogitModel& base,
                       const std::vector<ScoredText>& texts, bool with_layers);

// Immutable; spans live as long as the object.
class BaseRecord {
 public:
  explicit BaseRecord(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return file_.path(); }
  const std::vector<ScoredText>& texts() const { return texts_; }
  std::size_t vocab_size() const { return vocab_; }
  std::size_t tokens() const { return tokens_; }
  std::size_t scored() const { return scored_; }
  std::span<const float> logits(std::size_t scored_row) const;

  // [tokens, values of a token] of all texts together; empty when the layer has none.
  std::span<const float> hidden(int layer) const;
  std::span<const std::int32_t> experts(int layer) const;
  std::span<const std::int32_t> blocks(int layer) const;

 private:
  TensorView view(const std::string& name, DType dtype, std::size_t rank) const;
  template <typename T>
  std::span<const T> layer_values(const char* kind, int layer, DType dtype, std::size_t rank) const;

  SafetensorsFile file_;
  std::vector<ScoredText> texts_;
  std::size_t vocab_ = 0;
  std::size_t tokens_ = 0;
  std::size_t scored_ = 0;
  std::span<const float> logits_;
};

}  // namespace quern
