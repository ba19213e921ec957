// The server's side and rank 0's side of a job, with programs of a shell in place of mpirun:
// answers, errors, silence, and that nothing is left behind.
#include "quern/distributed/rank_job.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "quern/base/error.h"
#include "tests/support/error_message.h"

namespace quern {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

RankJobOptions job(const std::string& mode, milliseconds timeout = seconds(20)) {
  return {{RANK_PROGRAM, mode}, timeout};
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

bool exists(pid_t pid) { return ::kill(pid, 0) == 0; }

TEST(RankJob, AnswersUntilItIsEnded) {
  pid_t pid = 0;
  {
    RankJob ranks(job("echo"), bytes("setup"));
    pid = std::stoi(ranks.ready_text());
    std::string answer(1 << 20, '\0');
    const std::string question(1 << 20, 'q');
    ranks.request(kFrameFirstFree + 1, bytes(question), std::as_writable_bytes(std::span(answer)));
    EXPECT_EQ(answer, question);
    EXPECT_TRUE(ranks.alive());
    EXPECT_TRUE(exists(pid));
  }
  EXPECT_FALSE(exists(pid));
}

TEST(RankJob, ErrorAtTheStartIsTheRanks) {
  EXPECT_THAT(test::error_message([] { RankJob(job("refuse"), bytes("setup")); }),
              HasSubstr("no model here"));
}

TEST(RankJob, ACommandThatEndsIsNoticed) {
  EXPECT_THAT(test::error_message([] {
                RankJob({{"/bin/sh", "-c", "exit 7"}, seconds(20)}, bytes("setup"));
              }),
              HasSubstr("exit status 7"));
  EXPECT_THAT(test::error_message([] {
                RankJob({{"/nonexistent/mpirun"}, seconds(20)}, bytes("setup"));
              }),
              HasSubstr("cannot start '/nonexistent/mpirun'"));
  EXPECT_THAT(
      test::error_message([] {
        RankJob({{"/bin/sh", "-c", "sleep 60"}, seconds(20), milliseconds(300)}, bytes("setup"));
      }),
      HasSubstr("did not start within 0.3 s"));
}

// Of a job with nothing to do there are several signs of life within the shortest timeout.
TEST(RankJob, AnIdleJobLivesWithAShortTimeout) {
  EXPECT_EQ(life_period(seconds(1)), milliseconds(250));
  EXPECT_EQ(life_period(seconds(4)), seconds(1));
  EXPECT_EQ(life_period(seconds(120)), seconds(1));
  RankJob ranks(job("echo-800", milliseconds(800)), bytes("setup"));
  std::this_thread::sleep_for(milliseconds(950));
  EXPECT_TRUE(ranks.alive());
  std::string answer(3, '\0');
  ranks.request(kFrameFirstFree + 1, bytes("abc"), std::as_writable_bytes(std::span(answer)));
  EXPECT_EQ(answer, "abc");
}

// Killed or stopped in the middle of a request: an error within the timeout, and ever after.
TEST(RankJob, LostRankIsAnError) {
  struct {
    const char* mode;
    milliseconds timeout;
  } const rows[] = {{"die", seconds(20)}, {"stop", milliseconds(1500)}};
  for (const auto& row : rows) {
    const auto begin = std::chrono::steady_clock::now();
    RankJob ranks(job(row.mode, row.timeout), bytes("setup"));
    const pid_t pid = std::stoi(ranks.ready_text());
    std::string answer(3, '\0');
    const auto ask = [&] {
      ranks.request(kFrameFirstFree + 1, bytes("abc"), std::as_writable_bytes(std::span(answer)));
    };
    EXPECT_THAT(test::error_message(ask), HasSubstr("a rank has failed")) << row.mode;
    EXPECT_THAT(test::error_message(ask), HasSubstr("a rank has failed")) << row.mode;
    EXPECT_FALSE(ranks.alive());
    for (int i = 0; i < 1000 && exists(pid); ++i) std::this_thread::sleep_for(milliseconds(10));
    EXPECT_FALSE(exists(pid)) << row.mode;
    EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(15));
  }
}

// SIGKILL of the server: the rank sees it and ends.
TEST(RankJob, RankDoesNotOutliveTheServer) {
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // the rank becomes a child of this process
  int ends[2];
  ASSERT_EQ(::pipe(ends), 0);
  const pid_t server = ::fork();
  if (server == 0) {
    RankJob ranks(job("echo"), bytes("setup"));
    const pid_t pid = std::stoi(ranks.ready_text());
    if (::write(ends[1], &pid, sizeof pid) != sizeof pid) std::_Exit(1);
    ::raise(SIGKILL);
  }
  pid_t pid = 0;
  ASSERT_EQ(::read(ends[0], &pid, sizeof pid), static_cast<ssize_t>(sizeof pid));
  EXPECT_EQ(::waitpid(server, nullptr, 0), server);
  pid_t ended = 0;
  for (int i = 0; i < 1000 && ended != pid; ++i) {
    ended = ::waitpid(pid, nullptr, WNOHANG);
    std::this_thread::sleep_for(milliseconds(10));
  }
  EXPECT_EQ(ended, pid);
}

TEST(RankJob, CommandLineOfMpirun) {
  EXPECT_THAT(mpirun_words({4, false, 1, {}}),
              ::testing::ElementsAre("mpirun", "-n", "4", "--oversubscribe", "--bind-to", "none",
                                     "--mca", "btl_vader_single_copy_mechanism", "none"));
  EXPECT_THAT(mpirun_words({4, true, 2, {"--hostfile", "h"}}),
              ::testing::ElementsAre("mpirun", "-n", "4", "--oversubscribe", "--allow-run-as-root",
                                     "--map-by", "numa", "--bind-to", "numa", "--mca",
                                     "btl_vader_single_copy_mechanism", "none", "--hostfile", "h"));
  EXPECT_THAT(mpirun_words({3, false, 2, {}}), ::testing::Contains("none"));
  EXPECT_THAT(launch_options(2, " --mca  a b ").more, ::testing::ElementsAre("--mca", "a", "b"));
}

}  // namespace
}  // namespace quern
