// POST /v1/completions: requests to plans, outputs to bytes, and both over sockets.
#include <gtest/gtest.h>

#include <sstream>
#include <string>
#include <vector>

#include "quern/server/api_error.h"
#include "quern/server/completion_request.h"
#include "quern/server/completion_response.h"
#include "tests/server/api_fixture.h"
#include "tests/support/tiny_model_tokenizer.h"

namespace quern::server {
namespace {

using quern::test::tiny_model_tokenizer;

SamplingLimits limits() {
  SamplingLimits limits;
  limits.max_model_len = 100;
  limits.vocab_size = tiny_model_tokenizer().vocab_size();
  return limits;
}

CompletionPlan plan(const std::string& body) {
  CompletionPlan made =
      plan_completion(parse_completion_request(body), limits(), "NAME", tiny_model_tokenizer());
  for (GenerationPlan& generation : made.prompts) {
    generation.id = "cmpl-X";
    generation.created = 1781000000;
  }
  return made;
}

TEST(CompletionRequest, PromptsOfAllForms) {
  const auto hi = tiny_model_tokenizer().encode("hi");
  EXPECT_EQ(plan(R"({"prompt":"hi"})").prompts.at(0).prompt, hi);
  EXPECT_EQ(plan(R"({"prompt":["a","hi"]})").prompts.at(1).prompt, hi);
  EXPECT_EQ(plan(R"({"prompt":[5,6]})").prompts.at(0).prompt, (std::vector<std::int32_t>{5, 6}));
  const CompletionPlan lists = plan(R"({"prompt":[[5],[6,7]],"n":2})");
  EXPECT_EQ(lists.prompts.at(1).prompt, (std::vector<std::int32_t>{6, 7}));
  EXPECT_EQ(lists.choices(), 4);
  EXPECT_EQ(lists.first().sampling.max_tokens, 16);
  EXPECT_EQ(plan(R"({"prompt":"hi","max_tokens":null})").first().sampling.max_tokens, 16);
}

TEST(CompletionRequest, TruncationKeepsTheEndUnlessToldOtherwise) {
  const auto prompt = [](const std::string& fields) {
    return plan(R"({"prompt":[1,2,3,4,5],)" + fields + "}").first().prompt;
  };
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens":2)"), (std::vector<std::int32_t>{4, 5}));
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens":2,"truncation_side":"right")"),
            (std::vector<std::int32_t>{1, 2}));
  EXPECT_EQ(prompt(R"("truncate_prompt_tokens":-1,"max_tokens":97)"),
            (std::vector<std::int32_t>{3, 4, 5}));
}

TEST(CompletionRequest, EchoAsksForThePromptsLogprobs) {
  const CompletionPlan echo = plan(R"({"prompt":"hi","echo":true,"logprobs":3,"max_tokens":0})");
  EXPECT_EQ(echo.first().sampling.prompt_logprobs, 3);
  EXPECT_EQ(echo.first().sampling.max_tokens, 1);
  EXPECT_TRUE(echo.only_echo);
  EXPECT_FALSE(plan(R"({"prompt":"hi","logprobs":3})").first().sampling.prompt_logprobs);
}

TEST(CompletionRequest, BadWordsCountWithABlankBeforeThemToo) {
  const auto words = plan(R"({"prompt":"hi","bad_words":["a"]})").first().sampling.bad_words;
  ASSERT_FALSE(words.empty());
  EXPECT_EQ(words[0], tiny_model_tokenizer().encode("a"));
}

// Long lists do not grow by what is in them twice, and all prompts share one reading of them.
TEST(CompletionRequest, ListsHoldEachIdOnce) {
  const CompletionPlan made =
      plan(R"({"prompt":["a","b"],"stop_token_ids":[5,6,5],"allowed_token_ids":[7,7],)"
           R"("logit_bias":{"5":1," 5":2,"6":3}})");
  for (const GenerationPlan& generation : made.prompts) {
    EXPECT_EQ(generation.sampling.stop_token_ids, (std::vector<std::int32_t>{5, 6}));
    EXPECT_EQ(generation.sampling.allowed_token_ids, (std::vector<std::int32_t>{7}));
    EXPECT_EQ(generation.sampling.logit_bias,
              (std::vector<std::pair<std::int32_t, float>>{{5, 2.0F}, {6, 3.0F}}));
  }
  EXPECT_NE(made.prompts[0].serial, made.prompts[1].serial);
}

TEST(CompletionRequest, IdsOfAllGenerationsHaveABound) {
  EXPECT_NO_THROW(check_ids(1 << 25));
  EXPECT_THROW(check_ids((1 << 25) + 1), ApiError);
  EXPECT_EQ(count_ids(plan(R"({"prompt":[[1,2,3]],"n":4,"stop_token_ids":[5]})").first()), 16U);
}

// Before the text is tokenized: by its bytes alone.
TEST(CompletionRequest, TextThatCannotFitIsRefusedByItsLength) {
  SamplingRequest request;
  const Tokenizer& tokenizer = tiny_model_tokenizer();
  const std::size_t most = 90 * tokenizer.max_token_bytes().value();
  EXPECT_NO_THROW(check_text_length(request, limits(), tokenizer, 10, std::string(most, 'a')));
  EXPECT_THROW(check_text_length(request, limits(), tokenizer, 10, std::string(most + 1, 'a')),
               ApiError);
  request.truncate_prompt_tokens = 5;
  EXPECT_NO_THROW(check_text_length(request, limits(), tokenizer, 10, std::string(most + 1, 'a')));
  EXPECT_THROW(
      check_text_length(request, limits(), tokenizer, 10, std::string(kMaxTextBytes + 1, 'a')),
      ApiError);
}

TEST(CompletionRequest, Refusals) {
  const struct {
    const char* body;
    const char* message;
  } rows[] = {
      {R"({})", "Either prompt or prompt_embeds must be provided and non-empty."},
      {R"({"prompt":""})", "Either prompt or prompt_embeds must be provided and non-empty."},
      {R"({"prompt":[]})", "Either prompt or prompt_embeds must be provided and non-empty."},
      {R"({"prompt":[[]]})", "The decoder prompt cannot be empty"},
      {R"({"prompt":{"a":1}})", "Input should be a string, a list of strings"},
      {R"({"prompt":[1,"a"]})", "Input should be a string, a list of strings"},
      {R"({"prompt":[99999999]})", "out of vocabulary"},
      {R"({"prompt":"a","suffix":"b"})", "suffix is not currently supported"},
      {R"({"prompt":"a","max_tokens":0})", "max_tokens must be at least 1, got 0."},
      {R"({"prompt":"a","max_tokens":100})", "This model's maximum context length is 100 tokens."},
      {R"({"prompt":"a","logprobs":21})", "max allowed: 20"},
      {R"({"prompt":"a","logprobs":-2})", "`logprobs` must be a positive value or -1."},
      {R"({"prompt":"a","prompt_logprobs":1,"stream":true})",
       "`prompt_logprobs` are not available when `stream=True`."},
      {R"({"prompt":"a","logprob_token_ids":[1]})", "`logprobs` must be set"},
      {R"({"prompt":"a","allowed_token_ids":[]})", "allowed_token_ids is not None and empty!"},
      {R"({"prompt":"a","allowed_token_ids":[-1]})", "out-of-vocab"},
      {R"({"prompt":"a","bad_words":[""]})", "bad_words cannot contain an empty string."},
      {R"({"prompt":"a","truncate_prompt_tokens":101})", "greater than max_model_len (100)"},
      {R"({"prompt":"a","truncate_prompt_tokens":-2})", "greater than or equal to -1"},
      {R"({"prompt":"a","truncation_side":"up"})", "left or right"},
      {R"({"prompt":"a","stream_options":{}})", "Stream options can only be defined when"},
      {R"({"prompt":"a","n":2,"temperature":0})", "n must be 1 when using greedy sampling, got 2."},
      {R"({"prompt":["a","b"],"n":2049})", "makes 4098 generations"},
      {R"({"prompt":"a","max_tokens":9223372036854775807})", "9223372036854775807 output tokens"},
      {R"({"prompt":"a","max_tokens":-9223372036854775808,"truncate_prompt_tokens":-1})",
       "max_tokens must be at least 1"},
      {R"({"prompt":"a","use_beam_search":true})", "`use_beam_search` is not supported."},
  };
  for (const auto& row : rows) {
    try {
      plan(row.body);
      ADD_FAILURE() << row.body << " was accepted";
    } catch (const ApiError& error) {
      EXPECT_NE(std::string(error.what()).find(row.message), std::string::npos) << row.body << "\n"
                                                                                << error.what();
      EXPECT_TRUE(error.status() == 400 || error.status() == 501) << row.body;
    }
  }
}

engine::Output output_of(const std::string& text, std::vector<engine::TokenLogprobs> logprobs) {
  engine::Output output;
  output.text = text;
  for (const auto& entry : logprobs) output.token_ids.push_back(entry.chosen.token_id);
  output.completion_tokens = static_cast<int>(output.token_ids.size());
  output.logprobs = std::move(logprobs);
  output.finish_reason = engine::FinishReason::kLength;
  return output;
}

std::int32_t token(const std::string& text) { return tiny_model_tokenizer().encode(text).at(0); }

TEST(CompletionWriter, EchoedBodyByteByByte) {
  const CompletionPlan echo =
      plan(R"({"prompt":"AB","echo":true,"logprobs":1,"max_tokens":1,"temperature":0})");
  ASSERT_EQ(echo.first().prompt, (std::vector<std::int32_t>{token("A"), token("B")}));
  CompletionWriter writer(echo, tiny_model_tokenizer(), false);
  engine::Output output = output_of("C", {{{token("C"), -0.5F}, 2, {{token("A"), -0.25F}}}});
  output.prompt_logprobs = {{{token("B"), -1.0F}, 1, {{token("B"), -1.0F}}}};
  writer.feed(0, std::move(output));
  EXPECT_EQ(writer.body(),
            R"({"id":"cmpl-X","object":"text_completion","created":1781000000,"model":"NAME",)"
            R"("choices":[{"index":0,"text":"ABC","logprobs":{"text_offset":[0,1,2],)"
            R"("token_logprobs":[null,-1.0,-0.5],"tokens":["A","B","C"],)"
            R"("top_logprobs":[null,{"B":-1.0},{"C":-0.5,"A":-0.25}]},"finish_reason":"length",)"
            R"("stop_reason":null,"token_ids":null,"prompt_logprobs":[null,{")" +
                std::to_string(token("B")) +
                R"(":{"logprob":-1.0,"rank":1,"decoded_token":"B"}}],"prompt_token_ids":null}],)"
                R"("service_tier":null,"system_fingerprint":null,"usage":{"prompt_tokens":2,)"
                R"("total_tokens":3,"completion_tokens":1,"prompt_tokens_details":null},)"
                R"("kv_transfer_params":null})");
}

// What is generated because the engine cannot do without is neither shown nor counted.
TEST(CompletionWriter, EchoWithoutGeneration) {
  const CompletionPlan echo = plan(R"({"prompt":"AB","echo":true,"logprobs":0,"max_tokens":0})");
  CompletionWriter writer(echo, tiny_model_tokenizer(), false);
  engine::Output output = output_of("C", {{{token("C"), -0.5F}, 2, {}}});
  output.prompt_logprobs = {{{token("B"), -1.0F}, 1, {}}};
  writer.feed(0, std::move(output));
  const Json choice = parse_json(writer.body(), "body")["choices"][0];
  EXPECT_EQ(choice["text"], "AB");
  EXPECT_EQ(choice["logprobs"]["tokens"], Json::parse(R"(["A","B"])"));
}

// Offsets count characters, also of a character that is split over tokens.
TEST(CompletionWriter, OffsetsCountCharacters) {
  CompletionLogprobs logprobs(tiny_model_tokenizer(), false);
  const std::string text = "\xC3\xA9\xE4\xB8\xAD!";
  const auto ids = tiny_model_tokenizer().encode(text);
  for (const std::int32_t id : ids) logprobs.add({{id, -1}, 1, {}});
  const Json json = logprobs.take();
  std::string before;
  for (std::size_t i = 0; i < ids.size(); ++i) {
    int characters = 0;
    for (const char c : before) characters += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    // A token in the middle of a character stands where that character does.
    const bool inside =
        !before.empty() &&
        (static_cast<unsigned char>(tiny_model_tokenizer().token_bytes(ids[i])[0]) & 0xC0) == 0x80;
    EXPECT_EQ(json["text_offset"][i], inside ? characters - 1 : characters);
    before += tiny_model_tokenizer().token_bytes(ids[i]);
  }
}

TEST(CompletionWriter, EventsByteByByte) {
  const CompletionPlan stream =
      plan(R"({"prompt":[[65],[66]],"stream":true,"stream_options":{"include_usage":true},)"
           R"("return_token_ids":true})");
  CompletionWriter writer(stream, tiny_model_tokenizer(), false);
  engine::Output first;
  first.text = "x";
  first.token_ids = {7};
  first.completion_tokens = 1;
  const std::string head =
      R"(data: {"id":"cmpl-X","object":"text_completion","created":1781000000,"model":"NAME","choices":)";
  writer.feed(1, std::move(first));
  EXPECT_EQ(writer.event(1), head +
                                 R"([{"index":1,"text":"x","logprobs":null,"finish_reason":null,)"
                                 R"("stop_reason":null,"prompt_token_ids":[66],"token_ids":[7]}]})"
                                 "\n\n");
  engine::Output last;
  last.token_ids = {8};
  last.completion_tokens = 2;
  last.finish_reason = engine::FinishReason::kStop;
  last.stop_token_id = 8;
  writer.feed(1, std::move(last));
  EXPECT_EQ(writer.event(1), head +
                                 R"([{"index":1,"text":"","logprobs":null,"finish_reason":"stop",)"
                                 R"("stop_reason":8,"prompt_token_ids":null,"token_ids":[8]}]})"
                                 "\n\n");
  EXPECT_EQ(writer.usage_event(),
            head + R"([],"usage":{"prompt_tokens":2,"total_tokens":4,"completion_tokens":2}})"
                   "\n\n");
}

class CompletionApi : public ApiFixture {};

TEST_F(CompletionApi, AnswersEachPromptAndChoice) {
  start();
  const auto [status, text] =
      ask(post("/v1/completions", R"({"prompt":["a","b"],"n":2,"model":"alias"})"));
  EXPECT_EQ(status, "HTTP/1.1 200");
  const Json body = parse_json(text, "body");
  ASSERT_EQ(body["choices"].size(), 4U) << text;
  for (int i = 0; i < 4; ++i) {
    EXPECT_EQ(body["choices"][static_cast<std::size_t>(i)]["index"], i);
    EXPECT_EQ(body["choices"][static_cast<std::size_t>(i)]["text"], "Hello world");
  }
  EXPECT_EQ(body["model"], "tiny");
  EXPECT_EQ(ask(post("/v1/completions", R"({"prompt":"a","model":"x"})")).first, "HTTP/1.1 404");
}

TEST_F(CompletionApi, StreamEndsWithUsageAndDone) {
  start();
  const auto [status, chunked] = ask(
      post("/v1/completions",
           R"({"prompt":"a","echo":true,"stream":true,"stream_options":{"include_usage":true}})"));
  EXPECT_EQ(status, "HTTP/1.1 200");
  const std::string text = unchunk(chunked);
  std::string joined;
  std::istringstream events(text);
  for (std::string line; std::getline(events, line);) {
    if (!line.starts_with("data: {")) continue;
    const Json event = Json::parse(line.substr(6));
    for (const Json& choice : event.at("choices")) {
      joined += choice.at("text").get<std::string>();
    }
  }
  EXPECT_EQ(joined, "aHello world");
  EXPECT_TRUE(text.ends_with("\"completion_tokens\":3}}\n\ndata: [DONE]\n\n")) << text;
}

// The logprobs of a long prompt are written on the pool, of a short one where the answer is.
TEST_F(CompletionApi, LogprobsOfLongAndShortPromptsAreWhole) {
  generator_.logprobs = true;
  start();
  for (const int count : {3, 400}) {
    generator_.prompt_logprobs = count;
    const std::string fields = R"({"prompt":"a","echo":true,"logprobs":1)";
    const Json body = parse_json(ask(post("/v1/completions", fields + "}")).second, "body");
    const Json& whole = body.at("choices").at(0);
    EXPECT_EQ(whole["text"], "aHello world");
    EXPECT_EQ(whole["logprobs"]["tokens"].size(), static_cast<std::size_t>(1 + count + 3));
    const std::string text =
        unchunk(ask(post("/v1/completions", fields + R"(,"stream":true})")).second);
    Json tokens = Json::array();
    std::istringstream events(text);
    for (std::string line; std::getline(events, line);) {
      if (!line.starts_with("data: {")) continue;
      const Json event = Json::parse(line.substr(6));
      for (const Json& token : event.at("choices").at(0)["logprobs"]["tokens"])
        tokens.push_back(token);
    }
    EXPECT_EQ(tokens, whole["logprobs"]["tokens"]);
  }
}

TEST_F(CompletionApi, FailureIsAnErrorBody) {
  generator_.fail = true;
  generator_.pieces.clear();
  start();
  EXPECT_EQ(ask(post("/v1/completions", R"({"prompt":"a"})")).first, "HTTP/1.1 500");
  EXPECT_EQ(ask(post("/v1/completions", R"({"prompt":"a","stream":true})")).first, "HTTP/1.1 500");
}

}  // namespace
}  // namespace quern::server
