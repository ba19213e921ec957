// file: URLs inside and outside of the allowed folder.
#include "quern/server/media_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/server/api_error.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern::server {
namespace {

namespace fs = std::filesystem;

TEST(MediaFolder, ReadsWhatLiesUnderIt) {
  const quern::test::TempDirectory directory;
  const fs::path root = directory / "media";
  fs::create_directories(root / "sub dir");
  write_file(root / "sub dir" / "a.png", "picture");
  write_file(directory / "secret", "secret");
  fs::create_directory(directory / "media-other");
  write_file(directory / "media-other" / "x", "secret");
  fs::create_symlink(directory / "secret", root / "link");
  fs::create_symlink(root / "sub dir" / "a.png", root / "good_link");
  fs::create_directory_symlink(fs::path(directory / "media-other"), root / "folder_link");
  ASSERT_EQ(::mkfifo((root / "pipe").c_str(), 0600), 0);
  fs::create_symlink(root, directory / "alias");

  const MediaFolder folder((directory / "alias").string());  // itself a link
  const std::string base = "file://" + root.string();
  EXPECT_EQ(folder.read(base + "/sub%20dir/a.png", 100), "picture");
  EXPECT_EQ(folder.read(base + "/sub dir/a.png", 100), "picture");
  EXPECT_EQ(folder.read("file://localhost" + root.string() + "/good_link", 100), "picture");
  EXPECT_EQ(folder.read("file:" + root.string() + "/sub%20dir/../good_link", 100), "picture");
  EXPECT_EQ(folder.read("FILE://" + (directory / "alias").string() + "/good_link", 7), "picture");

  const std::string outside = "The file path must be a subpath of `--allowed-local-media-path`.";
  const std::string unreadable = "The media file does not exist or cannot be read.";
  const std::string text_of_size = "The media file is larger than 6 bytes.";
  const struct {
    std::string url;
    std::string text;
  } rows[] = {
      {"file:///etc/passwd", outside},
      {"file:///nonexistent", outside},
      {base + "/../secret", outside},
      {base + "/%2e%2e/secret", outside},
      {base + "/sub%20dir/../../secret", outside},
      {base + "-other/x", outside},
      {base + "/link", outside},
      {base + "/folder_link/x", outside},
      {base + "/missing", unreadable},
      {base + "/pipe", unreadable},
      {base + "/sub%20dir", unreadable},
      {base + "/a%00b", "The file URL holds a zero byte."},
      {base + "/a%0", "The file URL has a malformed % sequence."},
      {base + "/a%zz", "The file URL has a malformed % sequence."},
      {"file://host/etc/passwd", "A file URL must name a file of this machine: file:///PATH."},
      {"file:relative", "A file URL must hold an absolute path."},
      {base + "/good_link", text_of_size},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(quern::test::error_message([&] { folder.read(row.url, 6); }), row.text) << row.url;
  }
}

TEST(MediaFolder, NothingWithoutTheOption) {
  EXPECT_EQ(quern::test::error_message([] { MediaFolder("").read("file:///etc/hostname", 100); }),
            "Cannot load local files without `--allowed-local-media-path`.");
  EXPECT_NE(quern::test::error_message([] { MediaFolder("/nonexistent"); }).find("does not exist"),
            std::string::npos);
  EXPECT_NE(quern::test::error_message([] { MediaFolder("/etc/passwd"); }).find("directory"),
            std::string::npos);
}

}  // namespace
}  // namespace quern::server
