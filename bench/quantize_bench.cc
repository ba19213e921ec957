// How fast is BF16 to MXFP4: in memory, from the page cache, from the disk, beside a copy of the
// same bytes. Must never compare runs with different bytes or without the same fsync at the end.
// Read by tools/quantize_speed.py, which adds AMD Quark on the same file.
//
//   quantize_bench [SOURCE_DIR [WORK_DIR]]   without SOURCE_DIR a weight of 512 MiB is made
//
// Bounds: memory to memory, the arithmetic of one core; file to file, the copy, which reads what
// the quantizer reads and writes as many bytes as it writes.
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <random>
#include <thread>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/numerics/mxfp4.h"
#include "quern/numerics/weight_statistics.h"
#include "quern/quantize/pipeline.h"

namespace {

namespace fs = std::filesystem;
using namespace quern;

constexpr std::size_t kPiece = 4u << 20;      // of the copy
constexpr std::size_t kEncoded = 512u << 10;  // weights at a time, as the pipeline has them
constexpr int kRepeats = 3;

// Wall time and time on the processors, which other work on the machine does not lengthen as much.
struct Time {
  double wall = 1e30;
  double cpu = 1e30;
};

double cpu_seconds() {
  rusage usage{};
  QUERN_CHECK(::getrusage(RUSAGE_SELF, &usage) == 0);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// The best of some: other work only ever adds time.
Time best_of(const std::function<void()>& before, const std::function<void()>& fn) {
  Time best;
  for (int i = 0; i < kRepeats; ++i) {
    before();
    const double cpu = cpu_seconds();
    const auto start = std::chrono::steady_clock::now();
    fn();
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - start;
    best.wall = std::min(best.wall, wall.count());
    best.cpu = std::min(best.cpu, cpu_seconds() - cpu);
  }
  return best;
}

void print_row(const char* from, const std::string& what, double gigabytes, Time time, Time copy) {
  fmt::print("{:<12} {:<24} {:>7.2f} GB/s of source, {:>6.2f} per CPU second", from, what,
             gigabytes / time.wall, gigabytes / time.cpu);
  const bool compared = copy.wall < 1e30;
  fmt::print("{}\n", compared ? fmt::format(", {:.2f} of the copy", copy.wall / time.wall) : "");
}

std::string run_name(int threads, bool report) {
  return fmt::format("{} thread{}{}", threads, threads > 1 ? "s" : "",
                     report ? " with report" : "");
}

void random_weights(std::vector<BF16>& weights, std::uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 0.02f);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = i < 1u << 20 ? float_to_bf16(normal(random)) : weights[i - (1u << 20)];
  }
}

// Each thread has its own 64 MiB, in pieces as the pipeline has them.
void memory_row(int threads, bool report) {
  constexpr std::size_t kWeights = 32u << 20;
  std::vector<std::vector<BF16>> weights(static_cast<std::size_t>(threads));
  for (auto& w : weights) {
    w.resize(kWeights);
    random_weights(w, 1);
  }
  const Time time = best_of([] {},
                            [&] {
                              std::vector<std::jthread> team;
                              for (const auto& w : weights) {
                                team.emplace_back([&] {
                                  std::vector<std::uint8_t> packed(kEncoded / 2),
                                      scales(kEncoded / 32);
                                  WeightStatistics statistics;
                                  for (std::size_t i = 0; i < kWeights; i += kEncoded) {
                                    const auto piece = std::span(w).subspan(i, kEncoded);
                                    QUERN_CHECK(mxfp4_encode_row(piece, packed, scales));
                                    if (report) mxfp4_measure(piece, packed, scales, statistics);
                                  }
                                });
                              }
                            });
  print_row("memory", run_name(threads, report), 2e-9 * static_cast<double>(kWeights) * threads,
            time, {});
}

void make_source(const fs::path& directory) {
  fs::create_directories(directory);
  std::vector<BF16> row(1u << 21);
  random_weights(row, 2);
  SafetensorsWriter writer(
      directory / "model.safetensors",
      plan_safetensors({{"model.layers.0.mlp.w.weight", DType::kBF16, {1 << 16, 1 << 12}}}));
  for (int i = 0; i < 128; ++i) writer.write(std::as_bytes(std::span(row)));
  writer.commit();
  write_file(directory / "config.json", R"({"model_type": "bench"})");
}

struct Descriptor {
  explicit Descriptor(int opened) : fd(opened) {
    if (fd < 0) throw_errno("cannot open");
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd); }
  int fd;
};

void for_each_piece(const fs::path& path, const std::function<void(std::span<std::byte>)>& fn) {
  const Descriptor in(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::vector<std::byte> buffer(kPiece);
  for (ssize_t got = 0; (got = ::read(in.fd, buffer.data(), buffer.size())) > 0;) {
    fn(std::span(buffer).first(static_cast<std::size_t>(got)));
  }
}

void to_page_cache(const fs::path& path) {
  for_each_piece(path, [](std::span<std::byte>) {});
}

void from_page_cache(const fs::path& path) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  QUERN_CHECK(::fdatasync(file.fd) == 0);
  QUERN_CHECK(::posix_fadvise(file.fd, 0, 0, POSIX_FADV_DONTNEED) == 0);
}

// dd with 4 MiB blocks: of each block read, so much is written that `output_bytes` are at the end.
void copy_bytes(const QuantizePlan& plan, const fs::path& to) {
  for (const PlannedShard& shard : plan.shards) {
    const Descriptor out(
        ::open((to / shard.output_name).c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    const double share = static_cast<double>(shard.layout.file_bytes) /
                         static_cast<double>(fs::file_size(shard.source));
    for_each_piece(shard.source, [&](std::span<std::byte> piece) {
      const auto size = static_cast<std::size_t>(static_cast<double>(piece.size()) * share);
      if (::write(out.fd, piece.data(), size) != static_cast<ssize_t>(size)) throw_errno("write");
    });
    if (::fsync(out.fd) != 0) throw_errno("fsync");
  }
}

void file_rows(const fs::path& source, const fs::path& work) {
  QuantizeOptions options;
  options.model_dir = source;
  options.output_dir = work / "out";
  options.exclude_layers = std::vector<std::string>{};
  const QuantizePlan plan = make_plan(options);
  const double gigabytes = 1e-9 * static_cast<double>(plan.source_bytes);
  const auto for_shards = [&](void (*fn)(const fs::path&)) {
    for (const PlannedShard& shard : plan.shards) fn(shard.source);
  };
  const auto quantize = [&] {
    prepare_output_directory(options);
    run_plan(plan, options);
  };
  for (const bool cold : {false, true}) {
    const auto before = [&] {
      fs::remove_all(work / "out");
      fs::remove_all(work / "copy");
      fs::create_directories(work / "copy");
      ::sync();
      for_shards(cold ? from_page_cache : to_page_cache);
    };
    const char* from = cold ? "disk" : "page cache";
    const Time copy = best_of(before, [&] { copy_bytes(plan, work / "copy"); });
    print_row(from, "copy, 1 thread", gigabytes, copy, {});
    for (const int threads : {1, 2}) {
      for (const bool report : {false, true}) {
        options.threads = threads;
        options.report = report;
        print_row(from, run_name(threads, report), gigabytes, best_of(before, quantize), copy);
      }
    }
  }
  fs::remove_all(work / "out");
  fs::remove_all(work / "copy");
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const fs::path work =
        argc > 2 ? fs::path(argv[2])
                 : fs::temp_directory_path() / fmt::format("quantize_bench.{}", ::getpid());
    const fs::path source = argc > 1 ? fs::path(argv[1]) : work / "in";
    fs::create_directories(work);
    for (const int threads : {1, 2}) {
      for (const bool report : {false, true}) memory_row(threads, report);
    }
    if (argc <= 1) make_source(source);
    file_rows(source, work);
    if (argc <= 2) fs::remove_all(work);
    return 0;
  } catch (const std::exception& error) {
    fmt::print(stderr, "quantize_bench: {}\n", error.what());
    return 1;
  }
}
