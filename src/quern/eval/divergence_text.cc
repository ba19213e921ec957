// See divergence_text.h. The windows: llama.cpp tools/perplexity (kl_divergence).
#include "quern/eval/divergence_text.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/dataset.h"
#include "quern/text/jinja.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTextBytes = 1ULL << 30;

// A conversation. When the model has the last word only that is scored: from where the tokens leave
// those of the prompt that asks for it.
ScoredText conversation(Json messages, const PromptTokenizer& tokenizer) {
  if (!messages.is_array() || messages.empty() || !messages.back().is_object())
    throw Error("'messages' must be a list of messages that is not empty");
  ScoredText text{tokenizer.tokenizer().encode(tokenizer.render_whole(messages)), 1};
  if (messages.back().value("role", Json()) != "assistant" || messages.size() == 1) return text;
  messages.erase(messages.size() - 1);
  const auto prompt = tokenizer.tokenizer().encode(tokenizer.render(messages, false));
  const auto left =
      std::mismatch(text.tokens.begin(), text.tokens.end(), prompt.begin(), prompt.end());
  text.first_scored = std::max<std::size_t>(
      1, static_cast<std::size_t>(std::distance(text.tokens.begin(), left.first)));
  return text;
}

ScoredText row_text(const Json& row, const Template& row_template,
                    const PromptTokenizer& tokenizer) {
  if (row.contains("messages")) return conversation(row["messages"], tokenizer);
  return {tokenizer.tokenizer().encode(row_template.render(row, {.strict_undefined = true})), 1};
}

std::vector<ScoredText> read_rows(const std::filesystem::path& file,
                                  const PromptTokenizer& tokenizer, const TextOptions& options) {
  const Template row_template =
      Template::parse(options.row_template, "--data_template", {.keep_trailing_newline = true});
  std::vector<ScoredText> texts;
  std::size_t number = 0;
  for (const Json& row : read_jsonl(file)) {
    ++number;
    if (options.limit > 0 && texts.size() == options.limit) break;
    with_context(fmt::format("{}: row {}", file.string(), number), [&] {
      ScoredText text = row_text(row, row_template, tokenizer);
      if (text.tokens.size() > options.window) text.tokens.resize(options.window);
      if (text.tokens.size() > text.first_scored) texts.push_back(std::move(text));
    });
  }
  return texts;
}

std::vector<ScoredText> read_windows(const std::filesystem::path& file,
                                     const PromptTokenizer& tokenizer, const TextOptions& options) {
  const auto tokens = tokenizer.tokenizer().encode(read_file(file, kMaxTextBytes));
  std::vector<ScoredText> texts;
  for (std::size_t begin = 0; begin + options.window <= tokens.size(); begin += options.window) {
    if (options.limit > 0 && texts.size() == options.limit) break;
    const auto at = tokens.begin() + static_cast<std::ptrdiff_t>(begin);
    texts.push_back({{at, at + static_cast<std::ptrdiff_t>(options.window)}, options.window / 2});
  }
  if (texts.empty() && tokens.size() > 1) texts.push_back({tokens, 1});
  return texts;
}

}  // namespace

std::vector<ScoredText> read_texts(const std::filesystem::path& file,
                                   const PromptTokenizer& tokenizer, const TextOptions& options) {
  if (options.window < 2) throw UsageError("--context must be at least 2");
  std::vector<ScoredText> texts = file.extension() == ".jsonl"
                                      ? read_rows(file, tokenizer, options)
                                      : read_windows(file, tokenizer, options);
  if (texts.empty()) throw Error("{}: no text of at least two tokens", file.string());
  return texts;
}

}  // namespace quern
