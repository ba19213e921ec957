// Runs that were killed, mixed, shared, or whose files were changed: the directory is either the
// one an undisturbed run writes, or not loadable.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>
#include <latch>
#include <map>
#include <thread>

#include "quern/base/file.h"
#include "quern/quantize/manifest.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/shard_file.h"
#include "quern/quantize/verify.h"
#include "tests/support/error_message.h"
#include "tests/support/temp_directory.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using test::error_message;
using ::testing::HasSubstr;

constexpr int kShards = 5;

void write_source_shard(const fs::path& path, int shard) {
  const auto name = [&](const char* what) {
    return fmt::format("model.layers.{}.experts.{}.{}", shard / 2, shard, what);
  };
  SafetensorsWriter writer(path, plan_safetensors({{name("w1.weight"), DType::kBF16, {64, 256}},
                                                   {name("w2.weight"), DType::kF32, {16, 64}},
                                                   {name("bias"), DType::kF32, {33}}}));
  for (const TensorInfo& info : writer.layout().tensors) {
    std::string data(info.bytes(), '\0');
    // BF16 and F32 alike: exponents near 2^-5 in the upper byte.
    for (std::size_t i = 0; i < data.size(); ++i) {
      data[i] = static_cast<char>(i % 2 == 1 ? 0x3C : (i * 37 + static_cast<std::size_t>(shard)));
    }
    writer.write(std::as_bytes(std::span(data)));
  }
  writer.commit();
}

std::map<std::string, std::string> contents(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(directory)) {
    if (!entry.is_regular_file()) continue;
    files[entry.path().lexically_relative(directory)] = read_file(entry.path(), 1 << 24);
  }
  return files;
}

class Resume : public ::testing::Test {
 protected:
  Resume() {
    fs::create_directories(directory_ / "in");
    write_file(directory_ / "in/config.json", R"({"model_type": "x"})");
    write_file(directory_ / "in/tokenizer.json", "{}");
    for (int shard = 0; shard < kShards; ++shard) write_source_shard(source(shard), shard);
    options_.model_dir = directory_ / "in";
    options_.exclude_layers = std::vector<std::string>{};
    options_.threads = 2;
    options_.memory_budget_bytes = 32 << 10;  // many pieces, so many moments to be killed at
    reference_ = options_;
    reference_.output_dir = directory_ / "reference";
    run(reference_);
    options_.output_dir = directory_ / "out";
  }

  fs::path source(int shard) const {
    return directory_ / fmt::format("in/model-{}.safetensors", shard);
  }
  fs::path output(std::string_view name) const { return options_.output_dir / name; }

  static QuantizeReport run(const QuantizeOptions& options,
                            const std::function<void()>& poll = nullptr) {
    const QuantizePlan plan = make_plan(options);
    prepare_output_directory(options);
    return run_plan(plan, options, poll);
  }
  std::string run_error(const QuantizeOptions& options) {
    return error_message([&] { run(options); });
  }
  void expect_reference() {
    EXPECT_EQ(contents(options_.output_dir), contents(reference_.output_dir));
  }

  test::TempDirectory directory_;
  QuantizeOptions options_;
  QuantizeOptions reference_;
};

TEST_F(Resume, ASecondRunWritesNothing) {
  run(options_);
  expect_reference();
  const auto time = fs::last_write_time(output("config.json"));
  const QuantizeReport again = run(options_);
  EXPECT_EQ(again.shards, 0u);
  EXPECT_EQ(again.skipped_shards, std::size_t{kShards});
  EXPECT_EQ(again.quality.tensors.size(), std::size_t{2 * kShards});
  EXPECT_EQ(fs::last_write_time(output("config.json")), time);
}

TEST_F(Resume, KilledAtEveryPiece) {
  int kills = 0;
  for (int piece = 1;; piece += 3) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      int seen = 0;
      run(options_, [&] {
        if (++seen == piece) ::raise(SIGKILL);
      });
      ::_exit(0);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    if (WIFEXITED(status)) break;
    ++kills;
    EXPECT_FALSE(fs::exists(output("config.json")));
    if (kills % 2 == 0) fs::remove_all(options_.output_dir);  // else the next one goes on
  }
  EXPECT_GT(kills, 5);
  expect_reference();
}

TEST_F(Resume, StoppedByPoll) {
  int seen = 0;
  EXPECT_THAT(error_message([&] {
                run(options_, [&] {
                  if (++seen == 30) throw Error("stop");
                });
              }),
              HasSubstr("stop"));
  EXPECT_FALSE(fs::exists(output("config.json")));
  for (const auto& [name, text] : contents(options_.output_dir)) {
    EXPECT_THAT(name, ::testing::Not(HasSubstr(".part")));
  }
  EXPECT_GT(run(options_).skipped_shards, 0u);
  expect_reference();
}

TEST_F(Resume, OptionsAreNotMixed) {
  run(options_);
  QuantizeOptions other = options_;
  other.quant_scheme = "mxfp4_weight_only";
  EXPECT_THAT(run_error(other),
              HasSubstr(R"(quant_scheme "mxfp4", this one has "mxfp4_weight_only")"));
  other = options_;
  other.exclude_layers->push_back("*w2");
  EXPECT_THAT(run_error(other), HasSubstr("exclude_layers"));
  other = options_;
  other.report = false;
  EXPECT_THAT(run_error(other), HasSubstr("report true, this one has false"));
  other.overwrite = true;
  run(other);
  EXPECT_FALSE(fs::exists(output("quantize_report.json")));
  EXPECT_EQ(read_file(output("model-0.safetensors"), 1 << 24),
            read_file(reference_.output_dir / "model-0.safetensors", 1 << 24));
}

TEST_F(Resume, AChangedSourceIsNoticed) {
  run(options_);
  fs::last_write_time(source(2), fs::last_write_time(source(2)) + std::chrono::seconds(1));
  EXPECT_THAT(run_error(options_), HasSubstr("model-2.safetensors' has changed since"));

  // How weights are read stands in the source's config.json, all of which the output's need not
  // hold.
  const fs::path config = options_.model_dir / "config.json";
  const std::string text = read_file(config, 1 << 20);
  write_file(config, text + "\n");
  EXPECT_THAT(run_error(options_), HasSubstr("config.json of the source"));
  write_file(config, text);

  options_.output_dir = directory_ / "during";
  bool changed = false;
  const std::string message = error_message([&] {
    run(options_, [&] {
      if (std::exchange(changed, true)) return;
      std::ofstream(source(0), std::ios::in | std::ios::out | std::ios::binary)
          .seekp(-1, std::ios::end)
          .put('x');
    });
  });
  EXPECT_THAT(message, HasSubstr("model-0.safetensors' was changed while it was read"));
  EXPECT_FALSE(fs::exists(output("config.json")));
  EXPECT_FALSE(fs::exists(output("model-0.safetensors")));
}

TEST_F(Resume, AMissingShardIsMadeAgain) {
  run(options_);
  fs::remove(output("model-1.safetensors"));
  EXPECT_EQ(run(options_).shards, 1u);
  expect_reference();
}

TEST_F(Resume, RanksOneAfterTheOther) {
  options_.world_size = 3;
  for (options_.rank = 2; options_.rank >= 0; --options_.rank) {
    EXPECT_FALSE(fs::exists(output("config.json")));
    EXPECT_EQ(run(options_).missing_shards == 0, options_.rank == 0);
  }
  expect_reference();
  options_.rank = 3;
  EXPECT_THAT(run_error(options_), HasSubstr("rank 3 of 3"));
  options_.rank = 0;
  options_.overwrite = true;
  EXPECT_THAT(run_error(options_), HasSubstr("--overwrite needs a single process"));
}

TEST_F(Resume, RanksAtTheSameTime) {
  options_.world_size = 4;
  std::vector<pid_t> children;
  for (options_.rank = 0; options_.rank < options_.world_size; ++options_.rank) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      const std::string message = run_error(options_);
      if (!message.empty()) fmt::print(stderr, "{}\n", message);
      ::_exit(message.empty() ? 0 : 1);
    }
    children.push_back(child);
  }
  for (const pid_t child : children) {
    int status = 0;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
  }
  expect_reference();
}

// None sees a job yet, each comes with its own: one of them stands, for all.
TEST_F(Resume, OneJobOfRanksThatStartTogether) {
  constexpr int kRanks = 4;
  for (int round = 0; round < 20; ++round) {
    const fs::path directory = directory_ / fmt::format("start-{}", round);
    fs::create_directories(directory);
    std::vector<Json> standing(kRanks);
    {
      std::vector<std::jthread> ranks;
      std::latch start(kRanks);
      for (int rank = 0; rank < kRanks; ++rank) {
        ranks.emplace_back([&, rank] {
          start.arrive_and_wait();
          standing[static_cast<std::size_t>(rank)] =
              Manifest(directory, rank).claim_job({{"quant_scheme", rank}});
        });
      }
    }
    for (const Json& job : standing) EXPECT_EQ(job, Manifest(directory, 0).job());
  }
  EXPECT_EQ(Manifest(directory_ / "start-0", 0).claim_job({{"quant_scheme", 9}}),
            Manifest(directory_ / "start-0", 0).job());
}

// Ranks that finish together publish the same files: none may take away what another is writing.
TEST_F(Resume, TemporaryFilesOfOtherRanksStay) {
  options_.world_size = 2;
  const auto temporary = [&](int rank) {
    return output(Manifest::kDirectory) / fmt::format("tmp.{}.config.json", rank);
  };
  options_.rank = 1;
  run(options_);
  for (int rank = 0; rank < 4; ++rank) write_file(temporary(rank), "{");
  options_.rank = 0;
  run(options_);
  EXPECT_TRUE(fs::exists(output("config.json")));
  EXPECT_FALSE(fs::exists(temporary(0)));
  EXPECT_TRUE(fs::exists(temporary(1)));
  EXPECT_FALSE(fs::exists(temporary(2)));
  EXPECT_FALSE(fs::exists(temporary(3)));
}

TEST_F(Resume, VerifyFindsWhatHasChanged) {
  EXPECT_THAT(error_message([&] { verify_output(options_.output_dir); }), HasSubstr("no record"));
  run(options_);
  const VerifyReport report = verify_output(options_.output_dir);
  EXPECT_EQ(report.shards, std::size_t{kShards});
  EXPECT_EQ(report.tensors, std::size_t{5 * kShards});
  const auto verify_error = [&] {
    return error_message([&] { verify_output(options_.output_dir); });
  };
  const auto flip = [&](std::string_view name, std::streamoff from_end) {
    std::fstream file(output(name), std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(-from_end, std::ios::end);
    const char byte = static_cast<char>(file.get() ^ 1);
    file.seekp(-from_end, std::ios::end);
    file.put(byte);
  };
  flip("model-3.safetensors", 1);  // the last tensor by name is w2's scale
  EXPECT_THAT(verify_error(),
              HasSubstr("tensor 'model.layers.1.experts.3.w2.weight_scale' has other bytes"));
  flip("model-3.safetensors", 1);
  verify_output(options_.output_dir);
  fs::resize_file(output("model-4.safetensors"), 100);
  EXPECT_THAT(verify_error(), HasSubstr("model-4.safetensors"));
  fs::remove(output("model-4.safetensors"));
  EXPECT_THAT(verify_error(), HasSubstr("model-4.safetensors"));
  flip("config.json", 2);
  EXPECT_THAT(verify_error(), HasSubstr("config.json has changed"));
  fs::remove(output("config.json"));
  EXPECT_THAT(verify_error(), HasSubstr("the run is not finished"));
}

TEST_F(Resume, OnlyOneProcessWritesAShard) {
  fs::create_directories(options_.output_dir / Manifest::kDirectory);
  const fs::path part = output("model-0.safetensors.part");
  const int fd = ::open(part.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  ASSERT_EQ(::flock(fd, LOCK_EX), 0);
  const QuantizePlan plan = make_plan(options_);
  EXPECT_THAT(error_message([&] { run_plan(plan, options_); }),
              HasSubstr("another process is writing"));
  ::close(fd);
  run_plan(plan, options_);
  expect_reference();
}

TEST_F(Resume, NoRoomAndNoDirectory) {
  EXPECT_THAT(error_message([&] { check_free_space(directory_.path(), std::uint64_t{1} << 62); }),
              HasSubstr("has only"));
  options_.output_dir = "/proc/quern/out";
  EXPECT_THAT(run_error(options_), HasSubstr("cannot create '/proc/quern/out'"));
}

}  // namespace
}  // namespace quern
