// What a machine that loses its power can leave: a directory is never called complete before all of
// it is on the disk. The program's calls of fsync() and rename() are noted here on their way.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>

#include "quern/base/file.h"
#include "quern/quantize/pipeline.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

struct Call {
  std::string synced;  // or empty:
  std::string from;
  std::string to;
};
std::mutex noted_mutex;
std::vector<Call>* noted = nullptr;

void note(Call call) {
  const std::lock_guard lock(noted_mutex);
  if (noted != nullptr) noted->push_back(std::move(call));
}

}  // namespace
}  // namespace quern

extern "C" int fsync(int fd) {
  std::error_code unknown;
  const auto path = std::filesystem::read_symlink(fmt::format("/proc/self/fd/{}", fd), unknown);
  quern::note({path.string(), "", ""});
  return static_cast<int>(::syscall(SYS_fsync, fd));
}

extern "C" int rename(const char* from, const char* to) noexcept {
  quern::note({"", from, to});
  return static_cast<int>(::syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0));
}

namespace quern {
namespace {

namespace fs = std::filesystem;

class Durability : public ::testing::Test {
 protected:
  Durability() {
    fs::create_directories(source() / "sub/deeper");
    write_file(source() / "config.json", R"({"model_type": "x"})");
    write_file(source() / "tokenizer.json", "{}");
    write_file(source() / "sub/deeper/code.py", "#");
    SafetensorsWriter writer(source() / "model.safetensors",
                             plan_safetensors({{"a.w.weight", DType::kBF16, {4, 32}}}));
    writer.write(std::vector<std::byte>(256));
    writer.commit();
    options_.model_dir = source();
    options_.output_dir = output();
    options_.exclude_layers = std::vector<std::string>{};
    options_.threads = 1;
  }
  ~Durability() override { noted = nullptr; }
  fs::path source() const { return fs::canonical(directory_.path()) / "in"; }
  fs::path output() const { return fs::canonical(directory_.path()) / "out"; }

  void quantize() {
    const QuantizePlan plan = make_plan(options_);
    noted = &calls_;
    prepare_output_directory(options_);
    run_plan(plan, options_);
    noted = nullptr;
  }
  // The place of the last such call before `end`, or -1.
  std::ptrdiff_t synced(const fs::path& path, std::ptrdiff_t end) const {
    return last(end, [&](const Call& call) { return call.synced == path; });
  }
  std::ptrdiff_t renamed_to(const fs::path& path) const {
    return last(std::ssize(calls_), [&](const Call& call) { return call.to == path; });
  }

  test::TempDirectory directory_;
  QuantizeOptions options_;
  std::vector<Call> calls_;

 private:
  std::ptrdiff_t last(std::ptrdiff_t end, const std::function<bool(const Call&)>& is) const {
    while (--end >= 0 && !is(calls_[static_cast<std::size_t>(end)])) {
    }
    return end;
  }
};

TEST_F(Durability, AllIsOnTheDiskBeforeTheConfig) {
  quantize();
  const std::ptrdiff_t end = std::ssize(calls_);
  const std::ptrdiff_t complete = renamed_to(output() / "config.json");
  ASSERT_GE(complete, 0);
  for (const auto& entry : fs::recursive_directory_iterator(output())) {
    SCOPED_TRACE(entry.path().string());
    if (entry.is_directory()) {
      EXPECT_GE(synced(entry.path(), complete), 0);
      continue;
    }
    if (entry.path().filename() == "job.json") continue;  // appears by link()
    const std::ptrdiff_t named = renamed_to(entry.path());
    ASSERT_GE(named, 0);
    EXPECT_LE(named, complete);
    // write_file() renames twice: what was synced had the first name.
    const std::string from = calls_[static_cast<std::size_t>(named)].from;
    const std::ptrdiff_t first = renamed_to(from);
    const std::string written = first < 0 ? from : calls_[static_cast<std::size_t>(first)].from;
    EXPECT_GE(synced(written, named), 0);
    EXPECT_GT(
        synced(entry.path().parent_path(), named <= complete && named != complete ? complete : end),
        named);
  }
}

TEST_F(Durability, TheConfigIsGoneBeforeAShardIsReplaced) {
  quantize();
  fs::remove(output() / "model.safetensors");
  calls_.clear();
  quantize();
  const std::ptrdiff_t replaced = renamed_to(output() / "model.safetensors");
  ASSERT_GE(replaced, 0);
  EXPECT_GE(synced(output(), replaced), 0);
}

// A copy that was cut off and is read-only, as its source.
TEST_F(Durability, AnOldTemporaryFileIsReplaced) {
  fs::create_directories(output() / Manifest::kDirectory);
  const Manifest manifest(output(), 0);
  fs::permissions(source() / "tokenizer.json", fs::perms::owner_read);
  const fs::path old =
      output() / Manifest::kDirectory / fmt::format("tmp.0.{}.tokenizer.json", ::getpid());
  fs::create_hard_link(source() / "sub/deeper/code.py", old);
  manifest.publish_copy(source() / "tokenizer.json", output() / "tokenizer.json");
  EXPECT_EQ(read_file(output() / "tokenizer.json", 16), "{}");
  EXPECT_EQ(read_file(source() / "sub/deeper/code.py", 16), "#");
}

}  // namespace
}  // namespace quern
