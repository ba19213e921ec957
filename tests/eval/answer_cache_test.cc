#include "quern/eval/answer_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <optional>
#include <string>

#include "quern/base/file.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

const Json kModel{{"server", "checkpoint-1"}};
const Json kQuestion{{"messages", "2+2?"}};

TEST(AnswerCache, KeepsAnswersAndNullAnswersOverRuns) {
  const test::TempDirectory directory;
  const std::string text = "4 \"quoted\"\nnext line \u00e9";
  std::string null_key;
  {
    AnswerCache cache(directory / "sub" / "cache", kModel);
    null_key = cache.key({{"messages", "?"}});
    EXPECT_FALSE(cache.find(cache.key(kQuestion)));
    cache.store(cache.key(kQuestion), text);
    cache.store(null_key, std::nullopt);
  }
  const AnswerCache again(directory / "sub" / "cache", kModel);
  const auto answer = again.find(again.key(kQuestion));
  ASSERT_TRUE(answer);
  EXPECT_EQ(*answer, text);
  const auto null_answer = again.find(null_key);
  ASSERT_TRUE(null_answer);
  EXPECT_FALSE(*null_answer);
}

TEST(AnswerCache, AnotherModelOrRequestIsAnotherKey) {
  const test::TempDirectory directory;
  AnswerCache cache(directory / "cache", kModel);
  cache.store(cache.key(kQuestion), "4");
  const AnswerCache other(directory / "cache", {{"server", "checkpoint-2"}});
  EXPECT_FALSE(other.find(other.key(kQuestion)));
  Json warmer = kQuestion;
  warmer["temperature"] = 1;
  EXPECT_NE(cache.key(kQuestion), cache.key(warmer));
}

TEST(AnswerCache, TornAndForeignLinesAreLeftOut) {
  const test::TempDirectory directory;
  std::string key;
  {
    AnswerCache cache(directory / "cache", kModel);
    key = cache.key(kQuestion);
    cache.store(key, "4");
  }
  const std::string whole = read_file(directory / "cache", 1 << 20);
  write_file(directory / "cache", "not json\n[1]\n" + whole + whole.substr(0, whole.size() / 2));
  {
    AnswerCache cache(directory / "cache", kModel);
    EXPECT_EQ(cache.find(key), std::optional(std::optional<std::string>("4")));
    cache.store("after", "5");
  }
  const AnswerCache cache(directory / "cache", kModel);
  EXPECT_EQ(cache.find("after"), std::optional(std::optional<std::string>("5")));
}

// Files of this process may have no more bytes, as on a disk that is full.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

TEST(AnswerCache, AWriteThatFailsIsAnError) {
  const test::TempDirectory directory;
  AnswerCache cache(directory / "cache", kModel);
  std::string half;
  std::string none;
  {
    const FileSizeLimit limit(20);
    half = test::error_message([&] { cache.store("key", "4"); });
    none = test::error_message([&] { cache.store("key", "4"); });
  }
  const std::string file = (directory / "cache").string();
  EXPECT_EQ(half, "the answer cache '" + file + "' is full");
  EXPECT_THAT(none, testing::HasSubstr("cannot write the answer cache '" + file + "'"));
  EXPECT_FALSE(cache.find("key"));
}

}  // namespace
}  // namespace quern
