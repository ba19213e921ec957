#include "quern/base/file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>
#include <utility>

#include "quern/base/error.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using test::error_message;
using ::testing::HasSubstr;

TEST(ReadFile, WholeOrAnErrorThatNamesIt) {
  const test::TempDirectory directory;
  const fs::path path = directory / "a";
  write_file(path, std::string("x\0y", 3));
  EXPECT_EQ(read_file(path, 3), std::string("x\0y", 3));
  EXPECT_THAT(error_message([&] { read_file(path, 2); }), HasSubstr(path.string()));
  EXPECT_THAT(error_message([&] { read_file(directory / "b", 9); }), HasSubstr("No such file"));
  EXPECT_THROW(read_file(directory.path(), 9), Error);
}

TEST(MappedFile, MovesAndTakesEmptyFiles) {
  const test::TempDirectory directory;
  write_file(directory / "a", "abc");
  write_file(directory / "empty", "");
  MappedFile first(directory / "a");
  MappedFile second(directory / "empty");
  EXPECT_TRUE(second.data().empty());
  second = std::move(first);
  ASSERT_EQ(second.data().size(), 3U);
  EXPECT_EQ(second.data()[2], std::byte{'c'});
  EXPECT_EQ(second.path(), directory / "a");
  EXPECT_THROW(MappedFile(directory / "none"), Error);
}

TEST(AtomicFile, AppearsOnlyWhenCommitted) {
  const test::TempDirectory directory;
  const fs::path path = directory / "out";
  write_file(path, "old");
  {
    AtomicFile file(path);
    file.write("half");
    EXPECT_EQ(read_file(path, 9), "old");
  }
  EXPECT_EQ(read_file(path, 9), "old");
  EXPECT_FALSE(fs::exists(path.string() + ".part"));
  AtomicFile file(path);
  file.write("n");
  file.write("ew");
  EXPECT_EQ(file.written(), 3U);
  file.commit();
  EXPECT_EQ(read_file(path, 9), "new");
  EXPECT_FALSE(fs::exists(path.string() + ".part"));
  EXPECT_THROW(AtomicFile(directory / "no" / "such"), Error);
}

// The part file stands for a device: one that is full, one that cannot write its data back.
TEST(AtomicFile, FailedWritesAndWriteBacksAreErrors) {
  const test::TempDirectory directory;
  const fs::path path = directory / "out";
  const struct {
    const char* device;
    const char* error;
  } rows[] = {{"/dev/full", "cannot write"}, {"/dev/null", "cannot sync"}};
  for (const auto& row : rows) {
    fs::create_symlink(row.device, path.string() + ".part");
    EXPECT_THAT(error_message([&] { write_file(path, "text"); }),
                testing::AllOf(HasSubstr(row.error), HasSubstr(path.string() + ".part")));
    EXPECT_FALSE(fs::exists(path));
    EXPECT_FALSE(fs::is_symlink(path.string() + ".part")) << "it was removed";
  }
}

}  // namespace
}  // namespace quern
