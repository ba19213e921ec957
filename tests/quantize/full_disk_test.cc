// A file system that is full, fills up during a run, or is read-only: one clear error, nothing that
// looks complete, and a later run goes on. Skipped where mounting is not permitted.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/mount.h>
#include <unistd.h>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/verify.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using test::error_message;
using ::testing::HasSubstr;

constexpr std::int64_t kRows = 1024;  // 3 shards of 2 MB become 3 of 0.55 MB

class FullDisk : public ::testing::Test {
 protected:
  void SetUp() override {
    // In a mount namespace of its own, so nothing is left behind.
    fs::create_directories(mount_point());
    if (::unshare(CLONE_NEWNS) != 0 ||
        ::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        ::mount("tmpfs", mount_point().c_str(), "tmpfs", 0, "size=4m") != 0) {
      GTEST_SKIP() << "mounting is not permitted here";
    }
    mounted_ = true;
    fs::create_directories(directory_ / "in");
    write_file(directory_ / "in/config.json", R"({"model_type": "x"})");
    for (int shard = 0; shard < 3; ++shard) {
      SafetensorsWriter writer(
          directory_ / fmt::format("in/{}.safetensors", shard),
          plan_safetensors({{fmt::format("m{}.weight", shard), DType::kBF16, {kRows, 1024}}}));
      const std::string data(2 * kRows * 1024, '\x3C');
      writer.write(std::as_bytes(std::span(data)));
      writer.commit();
    }
    options_.model_dir = directory_ / "in";
    options_.output_dir = mount_point() / "out";
    options_.exclude_layers = std::vector<std::string>{};
    options_.threads = 2;
    options_.memory_budget_bytes = 1 << 20;
  }
  ~FullDisk() override {
    if (mounted_) ::umount(mount_point().c_str());
  }

  fs::path mount_point() const { return directory_ / "small"; }
  fs::path filler() const { return mount_point() / "filler"; }
  // Leaves `free_bytes`.
  void fill(std::uint64_t free_bytes) const {
    const int fd = ::open(filler().c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
    ASSERT_GE(fd, 0);
    const std::uint64_t available = fs::space(mount_point()).available;
    ASSERT_EQ(::posix_fallocate(fd, 0, static_cast<off_t>(available - free_bytes)), 0);
    ::close(fd);
  }
  void run(const std::function<void()>& poll = nullptr) {
    const QuantizePlan plan = make_plan(options_);
    prepare_output_directory(options_);
    run_plan(plan, options_, poll);
  }
  void expect_nothing_loadable() const {
    EXPECT_FALSE(fs::exists(options_.output_dir / "config.json"));
    EXPECT_FALSE(fs::exists(options_.output_dir / "model.safetensors.index.json"));
  }

  test::TempDirectory directory_;
  QuantizeOptions options_;
  bool mounted_ = false;
};

TEST_F(FullDisk, RefusedBeforeTheStart) {
  fill(1 << 20);
  EXPECT_THAT(error_message([&] { run(); }), HasSubstr("has only"));
  expect_nothing_loadable();
  EXPECT_FALSE(fs::exists(options_.output_dir / "0.safetensors"));
}

TEST_F(FullDisk, FullDuringTheRun) {
  bool filled = false;
  const std::string message = error_message([&] {
    run([&] {
      if (std::exchange(filled, true)) return;
      fill(256 << 10);
    });
  });
  EXPECT_THAT(message, HasSubstr("safetensors"));
  EXPECT_THAT(message, HasSubstr("No space left on device"));
  expect_nothing_loadable();
  for (const auto& entry : fs::directory_iterator(options_.output_dir)) {
    EXPECT_NE(entry.path().extension(), ".part");
  }
  fs::remove(filler());
  run();
  EXPECT_EQ(verify_output(options_.output_dir).shards, 3u);
}

TEST_F(FullDisk, ReadOnly) {
  fs::create_directories(options_.output_dir);
  ASSERT_EQ(::mount(nullptr, mount_point().c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr), 0);
  EXPECT_THAT(error_message([&] { run(); }), HasSubstr("Read-only file system"));
  options_.output_dir = mount_point() / "other";
  EXPECT_THAT(error_message([&] { run(); }), HasSubstr("Read-only file system"));
}

}  // namespace
}  // namespace quern
