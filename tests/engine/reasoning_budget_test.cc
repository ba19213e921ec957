// A budget of reasoning ends it in time, alone and in the engine, and touches nothing else.
#include "quern/engine/reasoning_budget.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "quern/engine/engine_loop.h"
#include "quern/text/reasoning_parser.h"
#include "tests/engine/collector.h"
#include "tests/engine/fake_runner.h"
#include "tests/support/tiny_model_tokenizer.h"

namespace quern::engine {
namespace {

using quern::test::tiny_model_tokenizer;

const std::string kStart(kThinkStart);
const std::string kEnd(kThinkEnd);

// The text with what the budget forces put in: the token at hand is replaced.
std::string run(int budget, const ReasoningFormat& format, const std::vector<std::string>& pieces) {
  ReasoningBudget limit(budget, format, tiny_model_tokenizer());
  std::string text;
  for (const std::string& piece : pieces) {
    for (TokenId token : tiny_model_tokenizer().encode(piece)) {
      token = limit.forced().value_or(token);
      limit.accept(token);
      text += tiny_model_tokenizer().token_bytes(token);
    }
  }
  return text;
}

TEST(ReasoningBudget, Table) {
  const ReasoningFormat free{kStart, kEnd, false, false};
  const ReasoningFormat inside{kStart, kEnd, true, false};
  const ReasoningFormat over{kStart, kEnd, false, true};
  const struct {
    const char* what;
    int budget;
    ReasoningFormat format;
    std::vector<std::string> pieces;  // tokens: letters and markers are one each
    std::string text;
  } rows[] = {
      {"two tokens", 2, free, {kStart, "a", "b", "c", "d"}, kStart + "ab" + kEnd + "d"},
      {"none", 0, free, {kStart, "a", "b"}, kStart + kEnd + "b"},
      {"opened by the prompt", 1, inside, {"a", "b", "c"}, "a" + kEnd + "c"},
      {"none at once", 0, inside, {"a", "b"}, kEnd + "b"},
      {"ends by itself", 2, free, {kStart, "a", kEnd, "b", "c"}, kStart + "a" + kEnd + "bc"},
      {"at the last moment", 2, free, {kStart, "a", "b", kEnd, "c"}, kStart + "ab" + kEnd + "c"},
      {"no reasoning", 0, free, {"a", "b", "c"}, "abc"},
      {"after text", 1, free, {"a", kStart, "b", "c", "d"}, "a" + kStart + "b" + kEnd + "d"},
      {"over before it began", 0, over, {"a", kStart, "b"}, "a" + kStart + "b"},
      {"only once", 1, inside, {"a", "b", kStart, "c"}, "a" + kEnd + kStart + "c"},
      {"no markers known", 0, {}, {"a", kStart, "b"}, "a" + kStart + "b"},
      {"marker in pieces",
       1,
       free,
       {"<", "mm:think", ">", "a", "b", "c"},
       "<mm:think>a" + kEnd + "c"},
      {"end in pieces",
       20,
       inside,
       {"a", "</", "mm", ":think", ">", "b", "c", "d", "e"},
       "a</mm:think>bcde"},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(run(row.budget, row.format, row.pieces), row.text) << row.what;
  }
}

// With a model that says anything: reasoning has the budget's tokens at most, the rest goes on as
// the sampler says, and the answer is the same with others in the batch.
TEST(ReasoningBudget, HoldsInTheEngine) {
  constexpr int kVocab = 2048;
  EngineLoopOptions options;
  options.scheduler = {.max_num_batched_tokens = 200, .max_num_seqs = 16};
  options.num_kv_blocks = 64;
  options.max_model_len = 8 * kBlockTokens;
  test::FakeRunner runner(64, kVocab);
  test::Collector collector;
  EngineLoop loop(options, runner, tiny_model_tokenizer());
  const auto request = [](const std::string& id, int budget) {
    GenerationRequest r;
    r.id = id;
    r.prompt = {budget + 10, 20, 30};
    r.sampling.temperature = 2;
    r.sampling.seed = budget;
    r.sampling.max_tokens = 60;
    r.sampling.logprobs = 1;
    r.sampling.thinking_token_budget = budget;
    r.reasoning = {kStart, kEnd, true, false};
    return r;
  };
  const TokenId end = tiny_model_tokenizer().token_id(kEnd).value();
  std::vector<test::Generated> alone;
  for (int budget = 0; budget < 12; ++budget) {
    collector.submit(loop, request("a" + std::to_string(budget), budget));
    alone.push_back(collector.wait("a" + std::to_string(budget)));
    const std::vector<TokenId>& tokens = alone.back().tokens;
    const auto found = std::ranges::find(tokens, end);
    ASSERT_LE(found - tokens.begin(), budget);
    EXPECT_EQ(tokens.size(), 60U);
    EXPECT_EQ(alone.back().logprobs.size(), 60U);
    EXPECT_EQ(
        alone.back().logprobs[static_cast<std::size_t>(found - tokens.begin())].chosen.token_id,
        end);
  }
  for (int budget = 0; budget < 12; ++budget) {
    collector.submit(loop, request("b" + std::to_string(budget), budget));
  }
  for (int budget = 0; budget < 12; ++budget) {
    EXPECT_TRUE(test::same_result(collector.wait("b" + std::to_string(budget)),
                                  alone[static_cast<std::size_t>(budget)]));
  }
}

}  // namespace
}  // namespace quern::engine
