// What the engine is asked for one prompt of a request: checked, tokenized, nothing of it can fail
// but the engine. Must never know how the answer is written.
// Proved by tests/server/api_test.cc.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "quern/engine/request.h"
#include "quern/grammar/structured_output.h"

namespace quern::server {

struct GenerationPlan {
  std::string id;  // of the answer: "chatcmpl-...", "cmpl-..."
  std::string model;
  std::int64_t created = 0;
  int n = 1;
  std::uint64_t serial = 0;  // tells generations of equal ids apart

  std::vector<std::int32_t> prompt;
  std::vector<engine::ImageInput> images;
  engine::SamplingParams sampling;
  engine::ReasoningFormat reasoning;
  // What the answer is held to, if anything, and the field that says so; compiled when there is
  // time.
  std::shared_ptr<const grammar::StructuredOutput> form;
  std::string form_field;
  std::shared_ptr<const grammar::TokenGrammar> grammar;
  std::string cache_salt;
  std::int64_t priority = 0;

  bool return_token_ids = false;
  bool tokens_as_ids = false;  // "token_id:N" instead of the token's text
  bool stream = false;
  bool include_usage = false;
  bool continuous_usage = false;

  // The plan as one of a list.
  std::span<const GenerationPlan> alone() const { return {this, 1}; }
};

struct Usage {
  int prompt_tokens = 0;
  int completion_tokens = 0;
  int cached_tokens = 0;
  int reasoning_tokens = 0;
};

}  // namespace quern::server
