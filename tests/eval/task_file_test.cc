// Task files: the embedded ones, the YAML forms, and what is refused.
#include "quern/eval/task_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/eval/dataset.h"
#include "quern/eval/yaml_json.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

std::string error_of(const std::string& yaml) {
  try {
    parse_task(yaml, "t.yaml");
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(TaskFile, EmbeddedTasks) {
  const EvalTask gsm8k = load_task("gsm8k", {});
  EXPECT_EQ(gsm8k.generation_kwargs.dump(),
            R"({"until":["Question:","</s>","<|im_end|>"],"do_sample":false,"temperature":0.0})");
  EXPECT_EQ(gsm8k.num_fewshot, 5);
  EXPECT_EQ(gsm8k.version, 3.0);
  EXPECT_EQ(gsm8k.filters[1].steps[0].group_select, -1);
  EXPECT_EQ(gsm8k.metrics.at(0).exact_match.regexes_to_ignore,
            (std::vector<std::string>{",", "\\$", "(?s).*#### ", "\\.$"}));
  const EvalTask arith = load_task("arith", {});
  EXPECT_EQ(arith.config["filter_list"], gsm8k.config["filter_list"]);
  EXPECT_EQ(read_jsonl(find_split(arith, "test", "")).size(), 500U);
  EXPECT_THROW(load_task("gsm9k", {}), Error);
}

TEST(TaskFile, PatternsAndTags) {
  const auto names_of = [](const char* name) {
    std::vector<std::string> names;
    for (const EvalTask& task : load_tasks(name, {})) names.push_back(task.name);
    return names;
  };
  EXPECT_EQ(names_of("gsm8k_cot*"),
            (std::vector<std::string>{"gsm8k_cot", "gsm8k_cot_llama", "gsm8k_cot_self_consistency",
                                      "gsm8k_cot_zeroshot"}));
  EXPECT_EQ(names_of("ar?th"), std::vector<std::string>{"arith"});
  EXPECT_THROW(load_tasks("nothing*", {}), Error);
}

TEST(TaskFile, IncludePathComesFirst) {
  const test::TempDirectory folder;
  write_file(folder / "mine.yaml", "include: gsm8k.yaml\ntask: gsm8k\nnum_fewshot: 2\n");
  write_file(folder / "broken.yaml", "a: [");
  EXPECT_EQ(load_task("gsm8k", {folder.path()}).num_fewshot, 2);
  EXPECT_EQ(load_task("arith", {folder.path()}).num_fewshot, 5);
  EXPECT_EQ(load_task((folder / "mine.yaml").string(), {}).num_fewshot, 2);
  EXPECT_THROW(load_task("gsm8k", {folder / "none"}), Error);
}

TEST(TaskFile, ScalarsAreThoseOfPyYaml) {
  const Json value = parse_yaml(
      "a: 3.0\nb: 3\nc: yes\nd: ~\ne: '3'\nf: 1e5\ng: \"\\n\"\nh: off\ni: 0x10\nj: -1\nk: x "
      "y\nl:\n",
      "t");
  EXPECT_EQ(
      value.dump(),
      R"({"a":3.0,"b":3,"c":true,"d":null,"e":"3","f":"1e5","g":"\n","h":false,"i":16,"j":-1,"k":"x y","l":null})");
}

TEST(TaskFile, HostileYaml) {
  EXPECT_THROW(parse_yaml("a: [", "t"), Error);
  EXPECT_THROW(parse_yaml("a: 1\na: 2", "t"), Error);
  EXPECT_THROW(parse_yaml("a: !function x.y", "t"), Error);
  EXPECT_THROW(parse_yaml(std::string(100'000, '['), "t"), Error);
  std::string bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n";
  for (int i = 1; i < 12; ++i) {
    bomb += fmt::format("a{}: &a{} [", i, i);
    for (int j = 0; j < 10; ++j) bomb += fmt::format("*a{}{}", i - 1, j == 9 ? "]\n" : ",");
  }
  EXPECT_THROW(parse_yaml(bomb, "t"), Error);
}

TEST(TaskFile, RefusalsNameTheKey) {
  const std::string base = "include: gsm8k.yaml\n";
  const struct {
    std::string yaml;
    const char* expected;
  } rows[] = {
      {"- 1", "mapping"},
      {"task: t", "doc_to_text"},
      {base + "repeats: 0", "repeats"},
      {base + "num_fewshot: many", "num_fewshot"},
      {base + "process_docs: f", "process_docs"},
      {base + "output_type: embedding", "embedding"},
      {base + "output_type: loglikelihood_rolling", "only take_first fits"},
      {base + "output_type: loglikelihood", "only take_first fits"},
      {base + "output_type: multiple_choice", "doc_to_choice"},
      {base + "metric_list: [{metric: acc}]", "acc"},
      {base + "metric_list: []", "metric_list"},
      {base + "filter_list: [{name: f, filter: [{function: majority_vote}]}]", "must end with"},
      {base + "filter_list: [{name: f, filter: [{function: regex, regex_pattern: '(', "
              "group_select: 0}, {function: take_first}]}]",
       "'('"},
      {base + "doc_to_text: [3]", "doc_to_text"},
      {base + "fewshot_config: {sampler: balanced}", "balanced"},
      {"include: nowhere.yaml", "nowhere.yaml"},
  };
  for (const auto& row : rows)
    EXPECT_THAT(error_of(row.yaml), testing::HasSubstr(row.expected)) << row.yaml;
}

TEST(Dataset, MalformedLinesAreNamed) {
  const test::TempDirectory folder;
  const auto file = folder / "x.jsonl";
  const struct {
    const char* text;
    const char* expected;  // null: readable
  } rows[] = {{"{\"a\": 1}\n\n{\"a\": 2}", nullptr},
              {"{\"a\": 1}\n{\"a\"", ":2"},
              {"[1]\n", "object"},
              {"{\"a\": \"\xff\"}\n", ":1"}};
  for (const auto& row : rows) {
    write_file(file, row.text);
    try {
      EXPECT_EQ(read_jsonl(file).size(), 2U);
      EXPECT_EQ(row.expected, nullptr) << row.text;
    } catch (const Error& error) {
      ASSERT_NE(row.expected, nullptr) << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(row.expected));
    }
  }
}

}  // namespace
}  // namespace quern
