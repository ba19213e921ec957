// Every filter against the harness's own (tests/golden/eval/make_filter_cases.py), and its errors.
#include "quern/eval/filters.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern {
namespace {

EvalTask task_with(const Json& filter_list) {
  return parse_task("include: gsm8k.yaml\nfilter_list: " + filter_list.dump(), "t.yaml");
}

TEST(Filters, EqualThoseOfTheHarness) {
  const std::string file = QUERN_SOURCE_DIR "/tests/golden/eval/filter_cases.json";
  const Json golden = parse_json(read_file(file, 1 << 20), file);
  ASSERT_GT(golden["cases"].size(), 700U);
  for (const Json& row : golden["cases"]) {
    const EvalTask task = task_with(Json::array({Json{{"name", "f"}, {"filter", row["filter"]}}}));
    const AnswerFilter filter(task.filters.at(0));
    EXPECT_EQ(filter.apply(row["answers"].get<std::vector<std::string>>(), golden["doc"]),
              row["value"])
        << row.dump();
  }
}

TEST(Filters, MistakesAreNamed) {
  const struct {
    const char* steps;
    const char* expected;
  } rows[] = {
      {R"([{"function":"format_span"},{"function":"take_first"}])", "format_span"},
      {R"([{"function":"take_first"},{"function":"lowercase"}])", "nothing may follow"},
      {R"([{"function":"lowercase"}])", "must end with take_first"},
      {R"([{"function":"take_first_k"},{"function":"take_first"}])", "needs k"},
      {R"([{"function":"map","mapping_dict":[1]},{"function":"take_first"}])", "mapping_dict"},
      {R"([{"function":"multi_choice_regex","regexes_to_ignore":["("]},{"function":"take_first"}])",
       "'('"},
  };
  for (const auto& row : rows) {
    try {
      task_with(Json::array({Json{{"name", "f"}, {"filter", parse_json(row.steps, "t")}}}));
      ADD_FAILURE() << row.steps;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), testing::HasSubstr(row.expected));
    }
  }
}

TEST(Filters, TooFewAnswersOrNoChoices) {
  const auto filter = [](const char* step) {
    return AnswerFilter(
        task_with(Json::array({Json{{"name", "f"},
                                    {"filter", Json::array({parse_json(step, "t"),
                                                            {{"function", "take_first"}}})}}}))
            .filters.at(0));
  };
  EXPECT_THROW(filter(R"({"function":"take_first_k","k":3})").apply({"a", "b"}), Error);
  const AnswerFilter choices = filter(R"({"function":"multi_choice_regex","regex_pattern":"x"})");
  EXPECT_THROW(choices.apply({"a"}, Json::object()), Error);
  EXPECT_THROW(choices.apply({"a"}, Json{{"choices", {1, 2}}}), Error);
  EXPECT_EQ(choices.apply({"x"}, Json::object()), "x");
}

// The task files of the variants parse, and say what evaluation.md, section 9 says.
TEST(Variants, OfGsm8k) {
  const struct {
    const char* name;
    std::int64_t shots;
    std::size_t repeats;
    double version;
  } rows[] = {{"gsm8k", 5, 1, 3.0},
              {"gsm8k_cot", 8, 1, 3.0},
              {"gsm8k_cot_zeroshot", 0, 1, 3.0},
              {"gsm8k_cot_llama", 8, 1, 4.0},
              {"gsm8k_cot_self_consistency", 8, 64, 2.0},
              {"gsm8k_platinum", 5, 1, 3.0},
              {"gsm8k_platinum_cot", 8, 1, 3.0},
              {"gsm8k_platinum_cot_zeroshot", 0, 1, 3.0},
              {"gsm8k_platinum_cot_llama", 8, 1, 3.0},
              {"gsm8k_platinum_cot_self_consistency", 8, 64, 2.0}};
  for (const auto& row : rows) {
    const EvalTask task = load_task(row.name, {});
    EXPECT_EQ(task.num_fewshot, row.shots) << row.name;
    EXPECT_EQ(task.repeats, row.repeats) << row.name;
    EXPECT_EQ(task.version, row.version) << row.name;
  }
  EXPECT_TRUE(load_task("gsm8k_platinum", {}).excludes_question);
  EXPECT_FALSE(load_task("gsm8k", {}).excludes_question);
  EXPECT_EQ(load_tasks("self_consistency", {}).size(), 2U);  // a tag
}

}  // namespace
}  // namespace quern
