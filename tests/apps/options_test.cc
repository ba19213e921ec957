// Names, sizes, accepted flags, and what is refused.
#include "options.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "model_options.h"
#include "quern/base/error.h"

namespace quern::cli {
namespace {

server::ChatEngineOptions parse(const std::vector<std::string>& words) {
  CLI::App app("test");
  prepare(app);
  ModelOptions options(app);
  app.parse(std::vector<std::string>(words.rbegin(), words.rend()));
  refuse_unknown(app);
  return options.resolve();
}

TEST(ModelOptions, CommandOfTheModelCard) {
  const server::ChatEngineOptions options =
      parse({"/mnt/amd/MiniMax-M3-MXFP4", "--trust-remote-code", "--block-size", "128",
             "--tensor-parallel-size", "8", "--attention-backend", "TRITON_ATTN",
             "--mm-encoder-tp-mode", "data", "--mm-encoder-attn-backend", "ROCM_AITER_FA",
             "--tool-call-parser", "minimax_m3", "--enable-auto-tool-choice", "--reasoning-parser",
             "minimax_m3", "--moe-backend", "emulation"});
  EXPECT_EQ(options.engine.model_dir, "/mnt/amd/MiniMax-M3-MXFP4");
  EXPECT_EQ(options.engine.moe_backend, kernels::MoeBackend::kEmulation);
  EXPECT_TRUE(options.chat.parse_reasoning && options.chat.parse_tools);
  EXPECT_EQ(options.engine.parallel.tensor_parallel_size, 8);
  EXPECT_TRUE(options.engine.parallel.encoder_data_parallel);
  EXPECT_FALSE(options.engine.parallel.enable_expert_parallel);
}

TEST(ModelOptions, SizeIsTheLaunchersUnlessGiven) {
  const auto size = [](std::vector<std::string> words, Rank launched) {
    CLI::App app("test");
    prepare(app);
    ModelOptions options(app);
    std::reverse(words.begin(), words.end());
    app.parse(words);
    return options.resolve(launched).engine.parallel.tensor_parallel_size;
  };
  EXPECT_EQ(size({"m"}, {0, 1}), 1);
  EXPECT_EQ(size({"m"}, {0, 4}), 4);
  EXPECT_EQ(size({"m", "--tensor-parallel-size", "4"}, {0, 4}), 4);
  EXPECT_THROW(size({"m", "--tensor-parallel-size", "2"}, {0, 4}), UsageError);
}

TEST(ModelOptions, DashesUnderscoresSuffixesAndOpposites) {
  const server::ChatEngineOptions options = parse(
      {"m", "--max_model_len=4K", "--max-num-batched-tokens", "1k", "--no-enable-prefix-caching",
       "--served_model_name", "a", "b", "--default-chat-template-kwargs",
       R"({"thinking_mode":"enabled"})", "--override_generation_config", R"({"top_k":3})"});
  EXPECT_EQ(options.engine.max_model_len, 4096);
  EXPECT_EQ(options.engine.max_num_batched_tokens, 1000);
  EXPECT_FALSE(options.engine.enable_prefix_caching);
  EXPECT_EQ(options.served_model_names, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(options.chat.default_chat_template_kwargs["thinking_mode"], "enabled");
  EXPECT_EQ(parse({"m"}).engine.moe_backend, kernels::MoeBackend::kNative);
  EXPECT_TRUE(parse({"--model", "m"}).engine.enable_prefix_caching);
}

TEST(ModelOptions, MistakesAreNamed) {
  struct Case {
    std::vector<std::string> words;
    const char* text;
  };
  const Case cases[] = {
      {{}, "which model?"},
      {{"m", "--max-modl-len", "5"},
       "unknown option '--max-modl-len'; did you mean '--max-model-len'?"},
      {{"m", "--max_modl_len=5"}, "did you mean '--max-model-len'?"},
      {{"m", "n"}, "unexpected argument 'n'"},
      {{"m", "--model", "n"}, "two models"},
      {{"m", "--block-size", "16"}, "128"},
      {{"m", "--dtype", "float16"}, "--dtype"},
      {{"m", "--kv-cache-dtype", "fp8"}, "--kv-cache-dtype"},
      {{"m", "--moe-backend", "magic"}, "unknown 'magic'"},
      {{"m", "--attention-backend", "MAGIC"},
       "--attention-backend: unknown 'MAGIC'. Valid options are: FLASH_ATTN, TRITON_ATTN"},
      {{"m", "--mm-encoder-tp-mode", "x"}, "Valid options are: weights, data"},
      {{"m", "--distributed-executor-backend", "pigeons"}, "Valid options are: mpi, mp, ray"},
      {{"m", "--scheduling-policy", "lifo"}, "Valid options are: fcfs, priority"},
      {{"m", "--logprobs-mode", "cooked"}, "Valid options are: raw_logprobs, processed_logprobs"},
      {{"m", "--chat-template-content-format", "xml"}, "Valid options are: auto, string, openai"},
      {{"m", "--hf-overrides", "[1]"}, "--hf-overrides: a JSON object is expected"},
      {{"m", "--lora-modules", "a=b", "c=d"}, "--lora-modules is not supported"},
      {{"m", "--skip-tokenizer-init"}, "--skip-tokenizer-init is not supported"},
      {{"m", "--reasoning-parser", "qwen3"}, "unknown 'qwen3'"},
      {{"m", "--enable-auto-tool-choice"}, "requires --tool-call-parser"},
      {{"m", "--max-model-len", "many"}, "--max-model-len: 'many'"},
      {{"m", "--max-model-len", "1.5"}, "not a count"},
      {{"m", "--default-chat-template-kwargs", "[1]"}, "a JSON object is expected"},
  };
  for (const Case& c : cases) {
    try {
      parse(c.words);
      ADD_FAILURE() << "accepted; expected: " << c.text;
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find(c.text), std::string::npos) << error.what();
    }
  }
}

TEST(ModelOptions, ArgumentsOfAnInProcessModel) {
  const server::ChatEngineOptions options = ModelOptions::from_arguments(
      "dir",
      parse_json(R"({"max_model_len":512,"moe_backend":"emulation","enable_prefix_caching":false})",
                 "test"));
  EXPECT_EQ(options.engine.max_model_len, 512);
  EXPECT_FALSE(options.engine.enable_prefix_caching);
  EXPECT_THROW(ModelOptions::from_arguments("dir", parse_json(R"({"nonsense":1})", "test")),
               UsageError);
}

TEST(ParseCount, Suffixes) {
  struct Case {
    const char* text;
    std::int64_t value;
  };
  for (const Case& c : {Case{"128", 128},
                        {"1k", 1000},
                        {"1K", 1024},
                        {"25.6k", 25600},
                        {"2m", 2000000},
                        {"1G", 1073741824},
                        {"-1", -1}}) {
    EXPECT_EQ(parse_count(c.text, "--x"), c.value) << c.text;
  }
  for (const char* text : {"", "k", "1kk", "1.5", "x", "-5", "1e30", "nan"}) {
    EXPECT_THROW(parse_count(text, "--x"), UsageError) << text;
  }
}

}  // namespace
}  // namespace quern::cli
