#include "quern/engine/output_processor.h"
#include "tests/support/tiny_model_tokenizer.h"

#include <gtest/gtest.h>

#include <functional>

namespace quern::engine {
namespace {

using quern::test::tiny_model_tokenizer;

// Feeds tokens until the end; the outputs joined.
Output run(const GenerationRequest& request, const std::vector<TokenId>& tokens,
           const std::vector<TokenId>& eos = {}) {
  OutputProcessor processor(request, tiny_model_tokenizer(), eos, /*max_model_len=*/100);
  Output all;
  for (const TokenId token : tokens) {
    Output output;
    processor.push(token, output);
    all.text += output.text;
    all.token_ids.insert(all.token_ids.end(), output.token_ids.begin(), output.token_ids.end());
    all.finish_reason = output.finish_reason;
    all.stop_string = output.stop_string;
    all.stop_token_id = output.stop_token_id;
    all.completion_tokens = output.completion_tokens;
    if (all.finish_reason) return all;
  }
  processor.finish(FinishReason::kAbort, all);
  return all;
}

GenerationRequest request(const std::function<void(SamplingParams&)>& change = [](auto&) {}) {
  GenerationRequest result;
  result.prompt = {1, 2, 3};
  result.sampling.max_tokens = 50;
  change(result.sampling);
  return result;
}

TEST(OutputProcessor, EndsInTheOrderOfThePeer) {
  const auto tokens = tiny_model_tokenizer().encode("one two three");
  ASSERT_GE(tokens.size(), 3U);
  const TokenId last = tokens.back();
  const std::string before_last =
      tiny_model_tokenizer().decode(std::span(tokens).first(tokens.size() - 1), true);
  const int size = static_cast<int>(tokens.size());
  const struct {
    const char* what;
    GenerationRequest request;
    std::vector<TokenId> eos;
    FinishReason reason;
    std::string text;
    std::string stop_string;
    bool has_stop_token;
  } rows[] = {
      {"EOS: its text is hidden", request(), {last}, FinishReason::kStop, before_last, "", false},
      {"EOS before stop id",
       request([&](auto& p) { p.stop_token_ids = {last}; }),
       {last},
       FinishReason::kStop,
       before_last,
       "",
       false},
      {"EOS is ignored",
       request([](auto& p) { p.ignore_eos = true; }),
       {last},
       FinishReason::kAbort,
       "one two three",
       "",
       false},
      {"stop id",
       request([&](auto& p) { p.stop_token_ids = {last}; }),
       {},
       FinishReason::kStop,
       before_last,
       "",
       true},
      {"stop id with its text",
       request([&](auto& p) {
         p.stop_token_ids = {last};
         p.include_stop_str_in_output = true;
       }),
       {},
       FinishReason::kStop,
       "one two three",
       "",
       true},
      {"stop id before length",
       request([&](auto& p) {
         p.stop_token_ids = {last};
         p.max_tokens = size;
       }),
       {},
       FinishReason::kStop,
       before_last,
       "",
       true},
      {"length",
       request([&](auto& p) { p.max_tokens = size; }),
       {},
       FinishReason::kLength,
       "one two three",
       "",
       false},
      {"stop string overrides length",
       request([&](auto& p) {
         p.max_tokens = size;
         p.stop = {"three"};
       }),
       {},
       FinishReason::kStop,
       "one two ",
       "three",
       false},
      {"min_tokens: stop id does not count",
       request([&](auto& p) {
         p.stop_token_ids = {last};
         p.min_tokens = size + 1;
       }),
       {},
       FinishReason::kAbort,
       "one two three",
       "",
       false},
      {"min_tokens: stop string does not count",
       request([&](auto& p) {
         p.stop = {"three"};
         p.min_tokens = size;
       }),
       {},
       FinishReason::kAbort,
       "one two three",
       "",
       false},
      {"held back text comes at the end",
       request([](auto& p) { p.stop = {"threes"}; }),
       {},
       FinishReason::kAbort,
       "one two three",
       "",
       false},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.what);
    const Output output = run(row.request, tokens, row.eos);
    EXPECT_EQ(output.finish_reason, row.reason);
    EXPECT_EQ(output.text, row.text);
    EXPECT_EQ(output.stop_string, row.stop_string);
    EXPECT_EQ(output.stop_token_id.has_value(), row.has_stop_token);
    EXPECT_EQ(output.token_ids, tokens) << "tokens whose text is hidden are counted";
    EXPECT_EQ(output.completion_tokens, size);
  }
}

TEST(OutputProcessor, StopsWithinTheToken) {
  // The token that completes the stop string counts, its other text is dropped.
  const auto tokens = tiny_model_tokenizer().encode("Answer: 5\n\nQuestion: next");
  const Output output = run(request([](auto& p) { p.stop = {"Question:"}; }), tokens);
  EXPECT_EQ(output.text, "Answer: 5\n\n");
  EXPECT_EQ(output.stop_string, "Question:");
  EXPECT_LT(output.token_ids.size(), tokens.size());
}

TEST(OutputProcessor, NeverHalfACharacter) {
  const std::string text = "日本語 é 🙂!";
  const auto tokens = tiny_model_tokenizer().encode(text);
  const GenerationRequest r = request();
  OutputProcessor processor(r, tiny_model_tokenizer(), {}, 100);
  std::string all;
  for (const TokenId token : tokens) {
    Output output;
    processor.push(token, output);
    EXPECT_EQ(output.text.find("\xEF\xBF\xBD"), std::string::npos);
    EXPECT_NO_THROW(tiny_model_tokenizer().encode(output.text)) << "every piece is valid UTF-8";
    all += output.text;
  }
  EXPECT_EQ(all, text);
}

TEST(OutputProcessor, MaxModelLenEndsAGeneration) {
  const GenerationRequest r = request([](auto& p) { p.max_tokens = 1000; });
  const Output output = run(r, std::vector<TokenId>(200, 70));
  EXPECT_EQ(output.finish_reason, FinishReason::kLength);
  EXPECT_EQ(output.completion_tokens, 97);
}

}  // namespace
}  // namespace quern::engine
