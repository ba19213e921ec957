// Few-shot choice, messages, bodies and task hashes of GSM8K: golden values made by the harness
// itself (lm-evaluation-harness 4e7e0d47f) on the same data files.
#include <gtest/gtest.h>

#include "quern/eval/arguments.h"
#include "quern/eval/dataset.h"
#include "quern/eval/evaluator.h"
#include "quern/eval/fewshot.h"
#include "quern/eval/prompt.h"
#include "quern/eval/python_text.h"
#include "quern/eval/report.h"
#include "quern/eval/request.h"
#include "quern/eval/sha256.h"

namespace quern {
namespace {

constexpr PythonJsonStyle kKeepUnicode{.ensure_ascii = false, .indent = -1};

class SilentBackend : public ChatBackend {
 public:
  Json identity() override { return "silent"; }
  std::optional<std::string> complete(const Json&) override { return ""; }
};

std::string hash_of_run(bool multiturn, std::optional<double> limit) {
  EvaluationOptions options;
  options.fewshot_as_multiturn = multiturn;
  options.limit = limit;
  options.show_progress = false;
  SilentBackend backend;
  std::vector<EvalTask> tasks;
  tasks.push_back(load_task("gsm8k", {}));
  return task_hash(sample_lines(evaluate(std::move(tasks), options, backend).tasks[0]));
}

class Gsm8kPrompt : public testing::Test {
 protected:
  const EvalTask task_ = load_task("gsm8k", {});
  const std::vector<Json> train_ = read_jsonl(find_split(task_, "train", ""));
  const std::vector<Json> test_ = read_jsonl(find_split(task_, "test", ""));
};

TEST_F(Gsm8kPrompt, AllPicksOfTheRun) {
  FewshotSampler sampler(FewshotKind::kRandom, train_, 1234);
  Json all = Json::array();
  for (std::size_t i = 0; i < test_.size(); ++i) all.push_back(sampler.next(5, nullptr));
  EXPECT_EQ(all[0], (Json{6374, 3610, 957, 61, 742}));
  EXPECT_EQ(all[7], (Json{7212, 2046, 528, 5466, 4432}));
  EXPECT_EQ(all[658], (Json{4868, 2713, 975, 3226, 5168}));
  EXPECT_EQ(all[1318], (Json{220, 4179, 6064, 5599, 5541}));
  EXPECT_EQ(sha256_hex(python_json(all)),
            "081c98e70fff012331e99dfd920f219b0a18ee5990d1d0335d4a514cba9eb6ff");
  FewshotSampler other(FewshotKind::kRandom, train_, 42);
  EXPECT_EQ(other.next(5, nullptr), (std::vector<std::size_t>{5238, 912, 204, 6074, 2253}));
  EXPECT_EQ(other.next(5, nullptr), (std::vector<std::size_t>{2006, 1828, 1143, 6033, 839}));
}

TEST_F(Gsm8kPrompt, HashesOfPromptDocumentTargetAndBody) {
  const struct {
    const char* doc;
    const char* prompt;
    const char* target;
    const char* body;
    std::size_t body_bytes;
  } rows[] = {
      {"986c19252f3c7f6eaeff2229e9a5777f96a85c0ceea931a92d2289084dfd518c",
       "186f661ab969ce14d829576c94407a0f0258694b14e04e152cb94bce7fa1e6b1",
       "623a0fbdf774fcb55e485a3e6b012e6c3965616af5b8eb9b9aebd2f6712be2eb",
       "35e2e75253445c8d8c23df1733db1aa4480c230e8dff8125744414d6fc04114a", 3741},
      {"00f836ab1a16e62131c59e2c6ce14552295991067d5b9f912f47449305e3b9e1",
       "cbb3f3d86a58947d25b71871d67452e93ae821805016105f2d3fdd20dae4e6c9",
       "2c77b25809301541010b4cb58fc194c5b7308c37495cf8847113b267becb19a5",
       "2090165a14c2bb6cc5ad0ceb3392de5eb2c22ec62b04a1d8cb305b7765d770fa", 3875},
      {"de128ec686007fbcc408f283e02aca3b6ccbd40a0c6753d1e26c577174daecc8",
       "3326339a2c21e6f3a1e8eda25a1b3cee4a9835863664c5df1873b9a2e46967e0",
       "a053ae9c2a5ee74b4cb6b409b136adf3c83c1e9108da5f7632190cacd38f940e",
       "f98cdb6838c6baf97d1667d48387c8e2cbba7fe42f9534c4287e92ed6f7e68cd", 3805},
  };
  const ModelArguments model = parse_model_arguments(
      parse_key_values(
          {"model=/mnt/amd/MiniMax-M3-MXFP4,base_url=http://127.0.0.1:8000/v1/chat/completions,"
           "num_concurrent=32,max_gen_toks=16384"},
          "--model_args"),
      false);
  PromptBuilder builder(task_, train_,
                        {.num_fewshot = 5, .multiturn = true, .system_instruction = ""});
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    const Json messages = builder.next(test_[i]);
    ASSERT_EQ(messages.size(), 11U);
    EXPECT_EQ(sha256_hex(python_json(test_[i], {.ensure_ascii = false, .indent = 2})), rows[i].doc);
    EXPECT_EQ(sha256_hex(python_json(messages, kKeepUnicode)), rows[i].prompt);
    EXPECT_EQ(sha256_hex(task_.doc_to_target.value(test_[i]).get<std::string>()), rows[i].target);
    const std::string body = python_json(make_request(messages, task_.generation_kwargs, model));
    EXPECT_EQ(body.size(), rows[i].body_bytes);
    EXPECT_EQ(sha256_hex(body), rows[i].body);
  }
}

TEST_F(Gsm8kPrompt, SingleTurnAndSystemMessage) {
  PromptBuilder single(task_, train_,
                       {.num_fewshot = 5, .multiturn = false, .system_instruction = ""});
  EXPECT_EQ(sha256_hex(python_json(single.next(test_[0]), kKeepUnicode)),
            "8877cf7bf0f5e41e51afb7cb0992c8bd33247beffe5b802794cb7d8fc28fff05");
  PromptBuilder with_system(
      task_, train_, {.num_fewshot = 0, .multiturn = true, .system_instruction = "Be brief."});
  const Json messages = with_system.next(test_[0]);
  ASSERT_EQ(messages.size(), 2U);
  EXPECT_EQ(messages[0], (Json{{"role", "system"}, {"content", "Be brief."}}));
}

TEST(Gsm8kTaskHash, EqualsTheHarness) {
  EXPECT_EQ(hash_of_run(true, 3),
            "1853dd08031f6c5ea5f8efedcf7f1189faf224b737168ed58eb9c3234ff8af39");
  EXPECT_EQ(hash_of_run(true, {}),
            "7c997b2ab0903e918ed2f8d07b55dfb0cd412ad2e095c443d78f1ed49151b3eb");
  EXPECT_EQ(hash_of_run(false, {}),
            "20d0395dd4f7641d2a3f9d67a4af11fbbcd6dc52f125858cfbdffe109bd47d54");
}

TEST(Fewshot, TheQuestionItselfIsDropped) {
  std::vector<Json> pool;
  for (int i = 0; i < 8; ++i) pool.push_back({{"question", i}});
  FewshotSampler sampler(FewshotKind::kRandom, pool, 1234);
  for (int round = 0; round < 50; ++round) {
    const Json& own = pool[static_cast<std::size_t>(round % 8)];
    const auto picks = sampler.next(5, &own);
    EXPECT_EQ(picks.size(), 5U);
    for (const std::size_t pick : picks) EXPECT_NE(pool[pick], own);
  }
}

}  // namespace
}  // namespace quern
