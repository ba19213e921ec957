#include "quern/base/error.h"

#include <gtest/gtest.h>

#include <cerrno>
#include <cstdlib>
#include <string>

#include "quern/base/env.h"
#include "tests/support/error_message.h"

namespace quern {
namespace {

using test::error_message;

TEST(Error, ContextGrowsOutwards) {
  const std::string message = error_message([] {
    with_context("model.safetensors", [] {
      with_context("tensor 'w'", [] { throw Error("expected {} bytes, found {}", 8, 4); });
    });
  });
  EXPECT_EQ(message, "model.safetensors: tensor 'w': expected 8 bytes, found 4");
}

TEST(Error, ContextKeepsTheTypeAndTheResult) {
  EXPECT_THROW(with_context("x", [] { throw UsageError("y"); }), UsageError);
  EXPECT_EQ(with_context("x", [] { return 7; }), 7);
}

// A message from outside is not a format.
TEST(Error, OneArgumentIsTakenAsItIs) { EXPECT_STREQ(Error(std::string("{}")).what(), "{}"); }

TEST(Error, ErrnoIsReadBeforeAnythingElse) {
  EXPECT_EQ(error_message([] {
              errno = ENOENT;
              throw_errno("cannot open 'x'");
            }),
            "cannot open 'x': No such file or directory");
}

TEST(ErrorDeathTest, ABrokenInvariantAborts) {
  EXPECT_DEATH(QUERN_CHECK(1 + 1 == 3, "{} is not 3", 2), "1 \\+ 1 == 3.*2 is not 3");
}

TEST(Environment, UnsetIsNotEmpty) {
  ::setenv("QUERN_TEST_VARIABLE", "", 1);
  EXPECT_EQ(environment("QUERN_TEST_VARIABLE"), "");
  ::unsetenv("QUERN_TEST_VARIABLE");
  EXPECT_EQ(environment("QUERN_TEST_VARIABLE"), std::nullopt);
}

}  // namespace
}  // namespace quern
