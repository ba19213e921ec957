// The texts that two models are compared on, as tokens.
// Must never mix texts: each is scored on its own.
// Proved by tests/eval/divergence_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "quern/eval/prompt_tokenizer.h"

namespace quern {

// Positions first_scored .. size - 1 of the tokens are scored, each behind all before it.
struct ScoredText {
  std::vector<std::int32_t> tokens;
  std::size_t first_scored = 1;

  std::size_t scored() const { return tokens.size() - first_scored; }
};

struct TextOptions {
  std::string row_template = "{{text}}";  // Jinja over a row of a .jsonl file
  std::size_t window = 512;               // tokens of one text; longer ones are cut
  std::size_t limit = 0;                  // texts; 0 = all
};

// A .jsonl file: one text a row. `messages` are rendered by the chat template, and when the last
// one is the assistant's only that is scored; else the row template is rendered and all tokens but
// the first are scored. Any other file is one text, cut into windows of which the second half is
// scored, as llama-perplexity does. Throws Error when nothing is left to score.
std::vector<ScoredText> read_texts(const std::filesystem::path& file,
                                   const PromptTokenizer& tokenizer, const TextOptions& options);

}  // namespace quern
