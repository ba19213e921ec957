// The README.md of a quantized checkpoint, in the form in which AMD publishes them: overview,
// command, evaluation with recovery, commands to reproduce; with the metadata header that model
// hubs read. Must never hold a statement that was not read from a file: what no file says is left
// out. Proved by tests/eval/model_card_test.cc and `make demo`.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace quern {

struct CardSources {
  std::filesystem::path quantized;  // checkpoint directories
  std::filesystem::path base;
  std::vector<std::filesystem::path> results;       // of the quantized model: files or directories
  std::vector<std::filesystem::path> base_results;  // of the base model, one by one beside them
};

std::string model_card(const CardSources& sources);

}  // namespace quern
