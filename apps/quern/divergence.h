// `quern eval --tasks divergence`: a quantized model against its base, token by token.
// Must never compute: it reads options, calls eval/divergence.h, prints and writes files.
// Proved by tests/apps.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "quern/base/json.h"
#include "quern/eval/divergence_text.h"

namespace quern::cli {

struct DivergenceCommand {
  std::string reference;  // directory of the base model, or the file of its record
  std::string data;
  std::string reference_logits;  // where the base's record is kept; empty: a temporary file
  bool logits_only = false;      // no hidden states, experts and blocks
  TextOptions text;
  Json model_args;  // pretrained=Q, moe_backend, threads
  std::optional<std::string> output_path;
};

void run_divergence(const DivergenceCommand& command);

}  // namespace quern::cli
