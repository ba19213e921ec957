// The program as a user runs it, on models/m3-tiny.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "quern/eval/dataset.h"
#include "tests/apps/command.h"
#include "tests/support/temp_directory.h"

namespace quern::cli {
namespace {

constexpr const char* kToys =
    "Question: Kevin has 10 toys. Daniel has 3 more toys than Kevin. How many toys do they have "
    "together?\\nAnswer:";

TEST(Program, UsageErrorsEndWithStatusTwo) {
  for (const char* arguments : {"serve", "serve $ROOT/models/m3-tiny --prot 1", "nonsense", "",
                                "serve $ROOT/models/m3-tiny --ssl-keyfile k", "generate x"}) {
    EXPECT_EQ(shell(std::string("$QUERN ") + arguments).status, 2) << arguments;
  }
  const CommandResult missing = shell("$QUERN serve /nonexistent");
  EXPECT_EQ(missing.status, 1);
  EXPECT_EQ(missing.output.find('\n'), missing.output.size() - 1) << missing.output;
}

TEST(Program, GenerateAnswersOnStdoutOnly) {
  const CommandResult result = shell(
      std::string(
          "$QUERN generate $ROOT/models/m3-tiny --temperature 0 --max-tokens 100 -p \"$(printf '") +
      kToys + "')\" 2>/dev/null");
  EXPECT_EQ(result.status, 0);
  EXPECT_TRUE(result.output.ends_with("#### 23\n")) << result.output;
}

TEST(Program, GenerateAndChatSeePictures) {
  const CommandResult two = shell(
      "D=$(mktemp -d); cp $ROOT/data/shapes/red_circle_56.png \"$D/a #1%.png\"; "
      "$QUERN generate $ROOT/models/m3-tiny --temperature 0 --max-tokens 20 "
      "--image \"$D/a #1%.png\" -p 'What is in this picture?'; rm -r $D");
  EXPECT_EQ(two.status, 0);
  EXPECT_EQ(two.output, "a red circle\n");
  const CommandResult missing =
      shell("$QUERN generate $ROOT/models/m3-tiny --image /nonexistent.png -p x");
  EXPECT_EQ(missing.status, 1);
  EXPECT_NE(missing.output.find("cannot read '/nonexistent.png'"), std::string::npos)
      << missing.output;
  const CommandResult chat = shell(
      "printf '/image %s\\nWhat is in this picture?\\n/image /nonexistent\\nhi\\n' "
      "$ROOT/data/shapes/blue_square_56.png | "
      "$QUERN chat $ROOT/models/m3-tiny --temperature 0 --max-tokens 20");
  EXPECT_NE(chat.output.find("a blue square\n"), std::string::npos) << chat.output;
  EXPECT_NE(chat.output.find("cannot read '/nonexistent'"), std::string::npos) << chat.output;
}

TEST(Program, ChatTakesTurnsOverPipes) {
  const CommandResult result = shell(
      "printf 'Is it raining in Athens?\\n/reset\\n/unknown\\nhi\\n/exit\\n' | "
      "$QUERN chat $ROOT/models/m3-tiny --temperature 0 --max-tokens 40");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("unknown command /unknown"), std::string::npos) << result.output;
}

// start: runs a server in the background and waits for it; $URL and $PID are set.
constexpr const char* kStart =
    "D=$(mktemp -d); $QUERN serve $ROOT/models/m3-tiny --host 127.0.0.1 --port 0 >$D/out 2>$D/err "
    "& "
    "PID=$!; for i in $(seq 200); do URL=$(sed -n 's/^listening on //p' $D/out); "
    "[ -n \"$URL\" ] && curl -sf $URL/health && break; sleep 0.05; done; ";

TEST(Program, ServeDrainsAndEndsWithStatusZero) {
  for (const char* signal : {"TERM", "INT"}) {
    const CommandResult result = shell(
        std::string(kStart) +
        "curl -sN $URL/v1/chat/completions -H 'Content-Type: application/json' -d "
        "'{\"messages\":[{\"role\":\"user\",\"content\":\"hi\"}],\"max_tokens\":300,"
        "\"ignore_eos\":true,\"stream\":true}' >$D/answer & CURL=$!; sleep 0.1; kill -" +
        signal + " $PID; wait $PID; echo status $?; wait $CURL; tail -c 15 $D/answer; rm -r $D");
    EXPECT_NE(result.output.find("status 0"), std::string::npos) << result.output;
    EXPECT_NE(result.output.find("data: [DONE]"), std::string::npos) << result.output;
  }
}

// Greedy answers do not depend on what else runs, so whole runs repeat exactly, whatever the seed
// and the number of requests at a time.
TEST(Program, GreedyRunsRepeatExactly) {
  const CommandResult result = shell(
      "$QUERN eval --model quern --model_args pretrained=$ROOT/models/m3-tiny,num_concurrent=5,"
      "max_gen_toks=100 --tasks arith --num_fewshot 0 --limit 12 --apply_chat_template --repeats "
      "3");
  EXPECT_EQ(result.status, 0) << result.output;
  const auto at = result.output.find("Equal answers");
  ASSERT_NE(at, std::string::npos) << result.output;
  const std::string table = result.output.substr(at);
  EXPECT_NE(table.find("12 of 12"), std::string::npos) << table;
  EXPECT_NE(table.find("|arith|exact_match,strict-match"), std::string::npos) << table;
}

// Lines of the one samples file of `task` under `directory`.
std::vector<Json> sample_lines(const std::filesystem::path& directory, const std::string& task) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(directory)) {
    if (entry.path().filename().string().starts_with("samples_" + task + "_2"))
      return read_jsonl(entry.path());
  }
  return {};
}

// The same texts scored by a server (echo and logprobs) and in this process, and the same prompts
// without a chat template written on. A server's logarithms are float32: half a unit in the last
// place of at most 32, and as much again for its sum of exponentials, is 4e-6 a token, of which the
// longest text has 300.
TEST(Program, LikelihoodsAndTextInProcessEqualTheServers) {
  const test::TempDirectory out;
  const std::string common =
      ",num_concurrent=4,max_gen_toks=8 --include_path tests/golden/eval/harness_runs/tasks "
      "--limit "
      "3 --log_samples --tasks choice_column,choice_in_prompt,likelihood,rolling,write "
      "--output_path ";
  const CommandResult result =
      shell("cd $ROOT; " + std::string(kStart) +
            "$QUERN eval --model local-completions --model_args "
            "base_url=$URL/v1/completions,tokenizer=models/m3-tiny,model=$ROOT/models/m3-tiny" +
            common + (out / "http").string() +
            " && $QUERN eval --model quern --model_args pretrained=models/m3-tiny" + common +
            (out / "here").string() + "; S=$?; kill $PID; wait $PID; rm -r $D; exit $S");
  ASSERT_EQ(result.status, 0) << result.output;
  for (const char* task : {"choice_column", "choice_in_prompt", "likelihood", "rolling", "write"}) {
    const auto http = sample_lines(out / "http", task);
    const auto here = sample_lines(out / "here", task);
    ASSERT_EQ(http.size(), task == std::string("write") ? 9U : 3U) << task;
    ASSERT_EQ(here.size(), http.size());
    for (std::size_t i = 0; i < http.size(); ++i) {
      EXPECT_EQ(here[i]["prompt_hash"], http[i]["prompt_hash"]);
      if (task == std::string("write")) {
        EXPECT_EQ(here[i]["resps"], http[i]["resps"]);
        continue;
      }
      for (std::size_t k = 0; k < http[i]["resps"].size(); ++k) {
        // [["-12.5", "True"]], or ["-12.5"] of a whole text
        const Json a = http[i]["resps"][k][0];
        const Json b = here[i]["resps"][k][0];
        const auto value = [](const Json& v) {
          return std::stod(v.is_array() ? v[0].get<std::string>() : v.get<std::string>());
        };
        EXPECT_NEAR(value(a), value(b), 300 * 4e-6) << task << " " << i;
        if (a.is_array()) {
          EXPECT_EQ(a[1], b[1]);
        }
      }
    }
  }
}

TEST(Program, DivergenceKeepsAndReusesTheBasesRecord) {
  const CommandResult result = shell(
      "D=$(mktemp -d); printf '{\"text\": \"Kevin has 10 toys and 3 more.\"}\n' >$D/t.jsonl; "
      "T=$ROOT/models/m3-tiny; E=\"$QUERN eval --tasks divergence --model_args pretrained=$T\"; "
      "$E --reference $T --data $D/t.jsonl --reference_logits $D/r.safetensors && "
      "$E --reference $D/r.safetensors --output_path $D/out && ls $D/out/*/results_*.json; S=$?; "
      "$E --reference $T; echo status $?; rm -r $D; exit $S");
  EXPECT_EQ(result.status, 0) << result.output;
  EXPECT_NE(result.output.find("0.000000 ± 0.000000"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("needs --data FILE"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("status 2"), std::string::npos) << result.output;
}

// What `sensitivity` suggests for a budget is followed by hand: the checkpoint is larger than the
// recipe's by no more than the budget, and by something.
TEST(Program, SuggestedExclusionsFitTheBudget) {
  const CommandResult result = shell(
      "set -e; cd $ROOT; D=$(mktemp -d); trap 'rm -r $D' EXIT; "
      "printf '{\"text\": \"Kevin has 10 toys and Daniel has 3 more toys than Kevin.\"}\\n' "
      ">$D/t.jsonl; Q=\"$QUERN quantize --model_dir models/m3-tiny --quant_scheme mxfp4 "
      "--no_report\"; "
      "$QUERN sensitivity --model_dir models/m3-tiny --data $D/t.jsonl --size_budget 1500k "
      "--threads 1 --scratch_dir $D --output $D/s.json 2>/dev/null >$D/table; "
      "LIST=$(tail -n 1 $D/table); case $LIST in --exclude_layers*) ;; *) exit 3 ;; esac; "
      "$Q --output_dir $D/recipe >/dev/null 2>&1; "
      "eval \"$Q --output_dir $D/suggested $LIST\" >/dev/null 2>&1; "
      "size() { cat $1/*.safetensors | wc -c; }; "
      "echo \"more: $(( $(size $D/suggested) - $(size $D/recipe) ))\"; ls $D");
  ASSERT_EQ(result.status, 0) << result.output;
  const auto at = result.output.find("more: ");
  ASSERT_NE(at, std::string::npos) << result.output;
  const long more = std::stol(result.output.substr(at + 6));
  EXPECT_GT(more, 0);
  EXPECT_LE(more, 1'500'000) << result.output;
  EXPECT_EQ(result.output.find("quern-sensitivity"), std::string::npos) << "left behind";
}

// The first half of a shard's tensor data becomes zero in a copy of the model: everything that the
// demo prints is computed from the weights, so its table must change.
TEST(Demo, TableFollowsTheWeights) {
  const auto demo = [](const std::string& model) {
    return shell("D=$(mktemp -d); " + model +
                 "$ROOT/tools/demo.sh $QUERN $M $D/out 10; S=$?; rm -r $D; exit $S");
  };
  const CommandResult intact = demo("M=$ROOT/models/m3-tiny; ");
  ASSERT_EQ(intact.status, 0) << intact.output;
  const CommandResult broken = demo(
      "cp -r $ROOT/models/m3-tiny $D/broken; chmod -R u+w $D/broken; M=$D/broken; "
      "F=$M/model-00002-of-00002.safetensors; "
      "dd if=/dev/zero of=$F bs=1024 seek=200 count=$(( $(stat -c %s $F) / 2048 )) conv=notrunc "
      "status=none; ");
  ASSERT_EQ(broken.status, 0) << broken.output;
  const auto table = [](const std::string& output) {
    return output.substr(std::min(output.find("== 7. Compare"), output.size()));
  };
  const auto row = [&](const std::string& output) {
    const std::string text = table(output);
    const auto at = text.find("|arith|");
    return at == std::string::npos ? std::string() : text.substr(at, text.find('\n', at) - at);
  };
  EXPECT_FALSE(row(intact.output).empty()) << intact.output;
  // The card is made of the same files: its scores are those of the comparison.
  const std::string card =
      intact.output.substr(std::min(intact.output.find("== 8. Model card"), intact.output.size()));
  EXPECT_NE(card.find("base_model: \"m3-tiny\""), std::string::npos) << card;
  EXPECT_NE(card.find("|`arith`"), std::string::npos) << card;
  EXPECT_NE(card.find("--quant_scheme mxfp4"), std::string::npos) << card;
  EXPECT_NE(row(intact.output), row(broken.output));
  EXPECT_NE(intact.output.find("\"name\":\"get_weather\""), std::string::npos);
  const auto first = intact.output.find("\"content\":\"a green triangle\"");
  EXPECT_NE(first, std::string::npos) << "the picture, by the BF16 model";
  EXPECT_NE(intact.output.find("\"content\":\"a green triangle\"", first + 1), std::string::npos)
      << "and by the MXFP4 model";
  EXPECT_EQ(broken.output.find("#### 23\""), std::string::npos);
}

}  // namespace
}  // namespace quern::cli
