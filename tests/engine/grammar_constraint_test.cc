#include "quern/engine/grammar_constraint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <string>

#include "quern/base/error.h"
#include "quern/engine/engine_loop.h"
#include "quern/grammar/structured_output.h"
#include "tests/engine/collector.h"
#include "tests/engine/fake_runner.h"
#include "tests/support/tiny_model_tokenizer.h"

namespace quern::engine {
namespace {

using grammar::StructuredOutput;
using quern::test::tiny_model_tokenizer;
using test::Collector;
using test::FakeRunner;

constexpr TokenId kEos = 7;  // any token may play it
constexpr int kVocab = 2048;
const std::vector<TokenId> kEosIds = {kEos};
const ReasoningFormat kThinking = {"<mm:think>", "</mm:think>", false, false};

std::shared_ptr<const grammar::TokenGrammar> compiled(const StructuredOutput& output) {
  static grammar::GrammarCache cache(
      std::make_shared<const grammar::TokenTrie>(grammar::TokenTrie::of(tiny_model_tokenizer())));
  return cache.get(output);
}

std::shared_ptr<const grammar::TokenGrammar> regex(const std::string& pattern) {
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kRegex;
  output.text = pattern;
  return compiled(output);
}

TokenId token(std::string_view text) { return tiny_model_tokenizer().token_id(text).value(); }

GrammarConstraint constraint(const std::string& pattern, ReasoningFormat reasoning = {}) {
  return {regex(pattern), reasoning, tiny_model_tokenizer(), kEosIds, kVocab};
}

bool allows(GrammarConstraint& c, TokenId id) { return grammar::mask_has(c.mask(), id); }

TEST(GrammarConstraint, EndExactlyWhereTheGrammarEnds) {
  GrammarConstraint c = constraint("ab?");
  EXPECT_FALSE(allows(c, kEos));
  EXPECT_TRUE(allows(c, token("a")));
  EXPECT_FALSE(allows(c, token("b")));
  EXPECT_FALSE(c.only_end());
  c.accept(token("a"));
  EXPECT_TRUE(allows(c, kEos) && allows(c, token("b")));
  EXPECT_FALSE(c.only_end());
  c.accept(token("b"));
  EXPECT_TRUE(allows(c, kEos));
  EXPECT_TRUE(c.only_end());
  EXPECT_FALSE(c.ended());
  c.accept(kEos);
  EXPECT_TRUE(c.ended());
}

TEST(GrammarConstraint, BeginsBehindReasoning) {
  const TokenId start = token("<mm:think>");
  const TokenId end = token("</mm:think>");
  // The model decides: reasoning, its bare end, or the answer at once.
  GrammarConstraint free = constraint("a", kThinking);
  EXPECT_TRUE(allows(free, start) && allows(free, end) && allows(free, token("a")));
  EXPECT_FALSE(allows(free, token("b")));
  free.accept(start);
  EXPECT_TRUE(allows(free, token("b")) && allows(free, end));
  EXPECT_FALSE(allows(free, kEos)) << "reasoning must come to its end";
  free.accept(token("b"));
  free.accept(end);
  EXPECT_TRUE(allows(free, token("a")));
  EXPECT_FALSE(allows(free, token("b")) || allows(free, start) || allows(free, end));

  GrammarConstraint direct = constraint("a", kThinking);
  direct.accept(token("a"));
  EXPECT_TRUE(allows(direct, kEos));
  EXPECT_FALSE(allows(direct, start));

  ReasoningFormat inside = kThinking;
  inside.starts_in_reasoning = true;
  GrammarConstraint thinking = constraint("a", inside);
  EXPECT_TRUE(allows(thinking, token("b")));
  // The marker spelled in pieces; a token that would run on behind it is not allowed.
  for (const char c : std::string_view("</mm:think")) thinking.accept(token({&c, 1}));
  const auto mask = thinking.mask();
  for (TokenId id = 0; id < kVocab; ++id) {
    const std::string& bytes = tiny_model_tokenizer().token_bytes(id);
    if (bytes.size() > 1 && bytes.front() == '>' && !tiny_model_tokenizer().is_special(id)) {
      EXPECT_FALSE(grammar::mask_has(mask, id)) << bytes;
    }
  }
  thinking.accept(token(">"));
  EXPECT_TRUE(allows(thinking, token("a")));
  EXPECT_FALSE(allows(thinking, token("b")));

  ReasoningFormat over = kThinking;
  over.is_over = true;
  GrammarConstraint after = constraint("a", over);
  EXPECT_FALSE(allows(after, start) || allows(after, end));
}

TEST(GrammarConstraint, SpecialTokensAreNoText) {
  GrammarConstraint c = constraint("[\\s\\S]*");
  const auto mask = c.mask();
  for (TokenId id = 0; id < kVocab; ++id) {
    if (id == kEos || !tiny_model_tokenizer().is_special(id)) continue;
    EXPECT_FALSE(grammar::mask_has(mask, id)) << id;
  }
}

EngineLoopOptions options() {
  EngineLoopOptions result;
  result.scheduler = {.max_num_batched_tokens = 200, .max_num_seqs = 16};
  result.num_kv_blocks = 64;
  result.max_model_len = 8 * kBlockTokens;
  result.eos_token_ids = kEosIds;
  result.max_logprobs = -1;
  return result;
}

GenerationRequest request(int i) {
  GenerationRequest r;
  r.id = std::to_string(i);
  r.prompt = {i + 10, 20, 30};
  r.sampling.temperature = 2;
  r.sampling.seed = i;
  r.sampling.max_tokens = 400;
  return r;
}

StructuredOutput person() {
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kJsonSchema;
  output.schema = Json::parse(R"({"type":"object","properties":{
    "name":{"type":"string","maxLength":8},"age":{"type":"integer","minimum":0,"maximum":150},
    "tags":{"type":"array","items":{"enum":["x","y"]},"maxItems":3}},"required":["name","age"]})");
  output.any_whitespace = false;
  return output;
}

// With a model that says anything: what finishes is as the schema says, alone and in a batch.
TEST(GrammarConstraint, AnyModelAnswersAsTheSchemaSays) {
  const auto grammar = compiled(person());
  std::vector<test::Generated> alone;
  for (const bool together : {false, true}) {
    FakeRunner runner(64, kVocab);
    Collector collector;
    EngineLoop loop(options(), runner, tiny_model_tokenizer());
    for (int i = 0; i < 24; ++i) {
      GenerationRequest r = request(i);
      r.grammar = grammar;
      r.sampling.logprobs = i % 3 == 0 ? std::optional<int>(5) : std::nullopt;
      r.sampling.min_tokens = i % 4 == 1 ? 300 : 0;
      r.sampling.ignore_eos = i % 4 == 2;
      collector.submit(loop, std::move(r));
      if (!together) collector.wait(std::to_string(i));
    }
    for (int i = 0; i < 24; ++i) {
      const test::Generated result = collector.wait(std::to_string(i));
      ASSERT_EQ(result.last.finish_reason, FinishReason::kStop) << result.last.error << result.text;
      const Json answer = parse_json(result.text, "answer");
      EXPECT_TRUE(answer["name"].is_string()) << result.text;
      EXPECT_LE(answer["age"].get<int>(), 150) << result.text;
      for (const TokenLogprobs& step : result.logprobs) {
        for (const TokenLogprob& top : step.top) EXPECT_GT(top.logprob, -1000.0F);
      }
      if (together) {
        EXPECT_TRUE(test::same_result(result, alone[static_cast<std::size_t>(i)])) << i;
      } else {
        alone.push_back(result);
      }
    }
  }
}

// A grammar that no token can continue ends its own request only.
TEST(GrammarConstraint, FailureStaysWithItsRequest) {
  const std::vector<std::string> few = {"a", "b"};
  const auto trie = std::make_shared<const grammar::TokenTrie>(few);
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kRegex;
  output.text = "ac";
  FakeRunner runner(64, kVocab);
  Collector collector;
  EngineLoop loop(options(), runner, tiny_model_tokenizer());
  GenerationRequest bad = request(1);
  bad.grammar = std::make_shared<const grammar::TokenGrammar>(grammar::compile(output), trie);
  collector.submit(loop, std::move(bad));
  EXPECT_EQ(collector.wait("1").last.finish_reason, FinishReason::kError);
  GenerationRequest good = request(2);
  good.grammar = regex("[a-z]{3}");
  collector.submit(loop, std::move(good));
  const auto result = collector.wait("2");
  EXPECT_EQ(result.last.finish_reason, FinishReason::kStop);
  EXPECT_EQ(result.text.size(), 3U);
  EXPECT_TRUE(loop.healthy());
}

}  // namespace
}  // namespace quern::engine
