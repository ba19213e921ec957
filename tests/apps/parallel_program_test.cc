// The program with the model in several processes, started by itself and by mpirun: the same
// answers, and what happens when a rank, the server or the launcher is killed or stopped.
#include <gtest/gtest.h>

#include <string>

#include "tests/apps/command.h"

namespace quern::cli {
namespace {

constexpr const char* kGenerate =
    "G=\"generate $ROOT/models/m3-tiny --temperature 0 --max-tokens 20 --threads 1 "
    "--image $ROOT/data/shapes/red_circle_56.png\"; ";

class Parallel : public ::testing::Test {
 protected:
  void SetUp() override {
    if (shell("command -v mpirun").status != 0) GTEST_SKIP() << "no mpirun";
  }
};

TEST_F(Parallel, GenerateGivesTheSameAnswer) {
  const CommandResult result = shell(
      std::string(kGenerate) +
      "MPI='mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2'; P='What is in this "
      "picture?'; "
      "$QUERN $G -p \"$P\" -tp 2 2>/dev/null; "
      "$QUERN $G -p \"$P\" -tp 4 --enable-expert-parallel --mm-encoder-tp-mode data 2>/dev/null; "
      "$MPI $QUERN $G -p \"$P\" 2>/dev/null");
  EXPECT_EQ(result.output, "a red circle\na red circle\na red circle\n");
}

// One evaluation with the model in two processes, however --model is spelled, and no two of it.
TEST_F(Parallel, EvaluationUnderMpirunIsOne) {
  const CommandResult result = shell(
      "D=$(mktemp -d); echo 'model: quern' >$D/options.yaml; "
      "MPI='mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2'; "
      "E=\"eval --model_args pretrained=$ROOT/models/m3-tiny,max_gen_toks=4,threads=1 --tasks "
      "arith "
      "--num_fewshot 0 --limit 1 --apply_chat_template\"; "
      "export ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=detect_deadlocks=0; "  // Open MPI's own
      "for M in --model=quern \"-M quern\" \"--config $D/options.yaml\"; do "
      "$MPI $QUERN $E $M >$D/out 2>&1; echo \"status $? tables $(grep -c '^|arith' $D/out)\"; "
      "grep -i 'starting' $D/out; done; rm -r $D");
  std::size_t at = 0;
  for (int i = 0; i < 3; ++i, ++at) {
    at = result.output.find("status 0 tables 1\n", at);
    ASSERT_NE(at, std::string::npos) << result.output;
  }
}

// In a container the server, or mpirun, may be process 1: that is no sign of its death.
TEST_F(Parallel, ARankOfProcessOneStarts) {
  if (shell("unshare -U -r --pid --fork true").status != 0) GTEST_SKIP() << "no namespaces";
  const CommandResult result =
      shell("export QUERN; unshare -U -r --pid --fork sh -c '$QUERN rank; echo status $?'");
  EXPECT_NE(result.output.find("rank 0 has no server"), std::string::npos) << result.output;
}

TEST_F(Parallel, WhatCannotBeStartedIsNamed) {
  const CommandResult result = shell(
      std::string(kGenerate) +
      "$QUERN $G -p x -tp 3; echo ended $?; $QUERN $G -p x -tp 2 --mpirun-args --no-such-option; "
      "echo ended $?; $QUERN $G -p x -tp 2 --num-gpu-blocks-override 1 --max-model-len 1000; "
      "echo ended $?");
  EXPECT_NE(result.output.find("tensor parallel size 3: num_attention_heads 8 is not a multiple of "
                               "3; sizes that work: 1, 2, 4"),
            std::string::npos)
      << result.output;
  EXPECT_NE(result.output.find("the ranks did not start (mpirun: exit status"), std::string::npos)
      << result.output;
  EXPECT_NE(result.output.find("rank 0: To serve at least one request with the models's max seq "
                               "len (1000)"),
            std::string::npos)
      << result.output;
  EXPECT_EQ(result.output.find("ended 0"), std::string::npos) << result.output;
}

// $PID serves at $URL; $MPIRUN is its child, $RANKS are those of mpirun.
std::string start(const std::string& options) {
  return "D=$(mktemp -d); children() { echo $(grep -ls \"^PPid:[[:space:]]*$1\\$\" "
         "/proc/[0-9]*/status | grep -o '[0-9]*'); }; "
         "gone() { for i in $(seq 300); do alive=; for p in $1; do "
         "grep -qs '^State:.[^Z]' /proc/$p/status && alive=$p; done; [ -z \"$alive\" ] && return; "
         "sleep 0.05; done; echo \"$alive is left\"; }; "
         "$QUERN serve $ROOT/models/m3-tiny --host 127.0.0.1 --port 0 --threads 1 " +
         options +
         " >$D/out 2>$D/err & PID=$!; for i in $(seq 400); do "
         "URL=$(sed -n 's/^listening on //p' $D/out); [ -n \"$URL\" ] && curl -sf $URL/health && "
         "break; sleep 0.05; done; MPIRUN=$(children $PID); RANKS=$(children $MPIRUN); "
         "ask() { curl -s $URL/v1/completions -H 'Content-Type: application/json' "
         "-d '{\"prompt\":\"hi\",\"ignore_eos\":true,\"temperature\":0,\"max_tokens\":'$1'}'; }; "
         "status() { curl -s -o /dev/null -w '%{http_code}' $URL/health; }; ";
}

TEST_F(Parallel, ServerOutlivesItsRanks) {
  const CommandResult result = shell(
      start("-tp 2") +
      "ask 3 >$D/short; ask 3000 >$D/long & ASK=$!; sleep 0.5; kill -9 ${RANKS##* }; wait $ASK; "
      "cat $D/long; echo; for i in $(seq 100); do [ $(status) = 503 ] && break; sleep 0.05; done; "
      "echo health $(status); gone \"$MPIRUN $RANKS\"; kill -TERM $PID; wait $PID; "
      "echo status $?; cat $D/short; grep 'ranks have ended' $D/err; rm -r $D");
  EXPECT_NE(result.output.find("a rank has failed"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("health 503"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("status 0"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("\"completion_tokens\":3"), std::string::npos) << result.output;
  EXPECT_NE(result.output.find("the ranks have ended (mpirun"), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("is left"), std::string::npos) << result.output;
}

TEST_F(Parallel, NothingIsLeftBehind) {
  for (const char* kill : {"kill -9 $PID", "kill -TERM $PID", "kill -INT $PID",
                           "kill -9 $MPIRUN; sleep 1.5; kill $PID"}) {
    const CommandResult result = shell(start("-tp 2") + "echo ranks $RANKS; " + kill +
                                       "; gone \"$PID $MPIRUN $RANKS\"; cat $D/err; rm -r $D");
    EXPECT_NE(result.output.find("ranks "), std::string::npos) << result.output;
    EXPECT_EQ(result.output.find("is left"), std::string::npos) << kill << "\n" << result.output;
  }
}

// A stopped rank shows no life: also while nothing is asked.
TEST_F(Parallel, StoppedRankIsNoticed) {
  const CommandResult result = shell(
      start("-tp 2 --distributed-timeout-seconds 4") +
      "kill -STOP ${RANKS##* }; for i in $(seq 300); do [ $(status) = 503 ] && break; sleep 0.05; "
      "done; echo health $(status); gone \"$MPIRUN $RANKS\"; kill -TERM $PID; wait $PID; "
      "rm -r $D");
  EXPECT_NE(result.output.find("health 503"), std::string::npos) << result.output;
  EXPECT_EQ(result.output.find("is left"), std::string::npos) << result.output;
}

TEST_F(Parallel, QuantizeSharesTheShards) {
  const CommandResult result = shell(
      "D=$(mktemp -d); M=$ROOT/models/m3-tiny; "
      "$QUERN quantize --model_dir $M --output_dir $D/one --quant_scheme mxfp4 >/dev/null 2>&1 && "
      "mpirun --allow-run-as-root --oversubscribe --bind-to none -n 2 $QUERN quantize "
      "--model_dir $M --output_dir $D/two --quant_scheme mxfp4 >$D/log 2>&1; S=$?; cat $D/log; "
      "for f in $D/one/*.safetensors* $D/one/config.json; do cmp $f $D/two/${f##*/} || S=1; done; "
      "rm -r $D; exit $S");
  EXPECT_EQ(result.status, 0) << result.output;
}

}  // namespace
}  // namespace quern::cli
