// How near each operation of the CPU back end comes to its bound, at MiniMax-M3's widths.
// Must never time without probing the bound on the same memory in the same moments: bandwidth of a
// shared machine swings within seconds, so run and probe alternate and medians are compared.
//
// kernels_bench [THREADS] [FILTER]
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/host_memory.h"
#include "quern/kernels/machine_probe.h"

namespace quern::kernels {
namespace {

constexpr std::int64_t kHidden = 6144, kInner = 3072, kHeads = 64, kKvHeads = 4, kHeadDim = 128;
constexpr int kRounds = 9;

// CPU time a thread, so that other programs on the machine do not count (they still take bandwidth
// and shared caches).
double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  return values[values.size() / 2];
}

// Cheap pseudo-random 64-bit words.
class Words {
 public:
  std::uint64_t next() {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    return state_ ^= state_ << 17;
  }

 private:
  std::uint64_t state_ = 0x9E3779B97F4A7C15U;
};

class Bench {
 public:
  double seconds_of(const std::function<void()>& run) const {
    const double start = cpu_seconds();
    run();
    return (cpu_seconds() - start) / team_.size();
  }

  Bench(int threads, std::string filter)
      : threads_(threads), filter_(std::move(filter)), team_(threads) {}

  bool wants(std::string_view name) const {
    return filter_.empty() || name.find(filter_) != std::string_view::npos;
  }

  // Memory of random BF16 values of +-2^-5 or so.
  std::span<const std::byte> bf16_bytes(std::int64_t count) {
    return words(count * 2, 0x8FFF8FFF8FFF8FFFU, 0x3000300030003000U);
  }
  std::span<const std::byte> code_bytes(std::int64_t count) { return words(count, ~0ULL, 0); }
  // Scale bytes around 2^-7.
  std::span<const std::byte> scale_bytes(std::int64_t count) {
    return words(count, 0x0303030303030303U, 0x7878787878787878U);
  }

  std::unique_ptr<Backend> backend(std::int64_t tokens, std::int32_t last) {
    auto device = make_cpu_backend({threads_});
    ids_.assign(static_cast<std::size_t>(tokens), 0);
    sequences_.assign(ids_.size(), 0);
    positions_.resize(ids_.size());
    for (std::int64_t t = 0; t < tokens; ++t)
      positions_[static_cast<std::size_t>(t)] = last - static_cast<std::int32_t>(tokens - 1 - t);
    table_.resize(static_cast<std::size_t>(last / kBlockTokens + 1));
    for (std::size_t b = 0; b < table_.size(); ++b) table_[b] = static_cast<std::int32_t>(b);
    device->begin_step(
        {ids_, positions_, sequences_, table_, static_cast<std::int64_t>(table_.size())},
        {64, 5e6F});
    return device;
  }

  Matrix activations(Backend& device, std::int64_t rows, std::int64_t cols) {
    const Matrix m = device.allocate(rows, cols);
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (std::int64_t r = 0; r < rows; ++r) {
      for (float& value : row)
        value = static_cast<float>(static_cast<std::int32_t>(words_.next())) * 0x1p-31F;
      device.write(m, r, row);
    }
    return m;
  }

  // Runs alternate with a probe of the same bytes; prints what share of its speed was reached.
  void against_bandwidth(const std::string& name,
                         const std::vector<std::span<const std::byte>>& memory,
                         const std::function<void()>& run) {
    double bytes = 0;
    for (const auto& part : memory) bytes += static_cast<double>(part.size());
    std::vector<double> times, ratios;
    run();
    for (int i = 0; i < kRounds; ++i) {
      const auto probe = [&] {
        for (const auto& part : memory) sink_ += read_all(team_, part);
      };
      const double before = seconds_of(probe);
      times.push_back(seconds_of(run));
      const double after = seconds_of(probe);
      ratios.push_back(0.5 * (before + after) / times.back());
    }
    fmt::print("{:<44} {:>9.3f} ms {:>8.2f} GB/s  {:>5.2f} of read bandwidth\n", name,
               median(times) * 1e3, bytes / median(times) * 1e-9, median(ratios));
    std::fflush(stdout);
  }

  // The same for work bound by multiply-adds.
  void against_peak(const std::string& name, double multiply_adds, bool int8,
                    const std::function<void()>& run) {
    std::vector<double> times, ratios;
    run();
    for (int i = 0; i < kRounds / 2 + 1; ++i) {
      const double peak = int8 ? int8_multiply_adds_per_second(team_, 0.02)
                               : float_multiply_adds_per_second(team_, 0.02);
      times.push_back(seconds_of(run));
      ratios.push_back(multiply_adds / times.back() / peak);
    }
    fmt::print("{:<44} {:>9.3f} ms {:>8.1f} GMAC/s {:>5.2f} of {} peak\n", name,
               median(times) * 1e3, multiply_adds / median(times) * 1e-9, median(ratios),
               int8 ? "8-bit" : "float");
    std::fflush(stdout);
  }

  void machine() {
    const auto memory = code_bytes(std::int64_t{1} << 30);
    std::vector<double> times;
    for (int i = 0; i < kRounds; ++i)
      times.push_back(seconds_of([&] { sink_ += read_all(team_, memory); }));
    fmt::print("{} threads: {:.1f} GB/s read, {:.0f} GMAC/s 8-bit, {:.0f} GMAC/s float\n",
               team_.size(), static_cast<double>(memory.size()) / median(times) * 1e-9,
               int8_multiply_adds_per_second(team_, 0.2) * 1e-9,
               float_multiply_adds_per_second(team_, 0.2) * 1e-9);
  }

  void clear() { memory_.clear(); }

  std::uint64_t sink() const { return sink_; }

 private:
  std::span<const std::byte> words(std::int64_t bytes, std::uint64_t mask, std::uint64_t base) {
    memory_.emplace_back(bytes + 8);
    auto* out = reinterpret_cast<std::uint64_t*>(memory_.back().data());
    for (std::int64_t i = 0; i < bytes / 8 + 1; ++i) out[i] = (words_.next() & mask) | base;
    return {memory_.back().data(), static_cast<std::size_t>(bytes)};
  }

  int threads_;
  std::string filter_;
  ThreadTeam team_;
  Words words_;
  std::vector<HostArray<std::byte>> memory_;
  std::vector<std::int32_t> ids_, positions_, sequences_, table_;
  std::uint64_t sink_ = 0;
};

WeightSource bf16_source(std::span<const std::byte> bytes, std::int64_t rows, std::int64_t cols) {
  return {WeightFormat::kBF16, {DType::kBF16, {rows, cols}, bytes.data()}, {}};
}

// Several matrices, so that none stays in a cache.
void bf16(Bench& bench) {
  constexpr std::int64_t kRows = kHeads * kHeadDim;
  constexpr int kMatrices = 10;
  std::vector<std::span<const std::byte>> memory;
  for (int i = 0; i < kMatrices; ++i) memory.push_back(bench.bf16_bytes(kRows * kHidden));
  for (const std::int64_t tokens : {1, 2, 4, 8, 32, 128, 512}) {
    const auto device = bench.backend(tokens, static_cast<std::int32_t>(tokens) - 1);
    std::vector<WeightHandle> weights;
    for (const auto& bytes : memory)
      weights.push_back(device->bind(bf16_source(bytes, kRows, kHidden)));
    const Matrix x = bench.activations(*device, tokens, kHidden);
    const Matrix out = device->allocate(tokens, kRows);
    const std::string name =
        fmt::format("linear BF16 [{} x {}], {} tokens", kRows, kHidden, tokens);
    if (tokens <= 8) {
      bench.against_bandwidth(name, memory, [&] {
        for (const WeightHandle& weight : weights) device->linear(*weight, x, out);
      });
    } else {
      bench.against_peak(name, static_cast<double>(tokens * kRows * kHidden), false,
                         [&] { device->linear(*weights.front(), x, out); });
    }
  }
  bench.clear();
}

MlpWeights expert(Backend& device, std::span<const std::byte> codes,
                  std::span<const std::byte> scales) {
  const std::int64_t part = kHidden * kInner / 2;
  const auto bind = [&](std::int64_t i, std::int64_t rows, std::int64_t cols) {
    return device.bind({WeightFormat::kMxfp4,
                        {DType::kU8, {rows, cols / 2}, codes.data() + i * part},
                        {DType::kU8, {rows, cols / 32}, scales.data() + i * part / 16}});
  };
  return {bind(0, kInner, kHidden), bind(1, kInner, kHidden), bind(2, kHidden, kInner)};
}

// `tokens` tokens of each of `used` experts.
void experts(Bench& bench) {
  constexpr int kExperts = 48;
  constexpr std::int64_t kWeights = 3 * kHidden * kInner;
  std::vector<std::span<const std::byte>> codes, scales;
  for (int e = 0; e < kExperts; ++e) {
    codes.push_back(bench.code_bytes(kWeights / 2));
    scales.push_back(bench.scale_bytes(kWeights / 32));
  }
  for (const std::int64_t tokens : {1, 2, 3, 4, 8, 16, 64, 256}) {
    const bool memory_bound = tokens <= 8;
    const auto used = static_cast<std::size_t>(memory_bound ? kExperts : 2);
    const auto device = bench.backend(tokens, static_cast<std::int32_t>(tokens) - 1);
    std::vector<std::span<const std::byte>> memory;
    MoeWeights weights;
    for (std::size_t e = 0; e < used; ++e) {
      weights.experts.push_back(expert(*device, codes[e], scales[e]));
      memory.push_back(codes[e]);
      memory.push_back(scales[e]);
    }
    const MoeSpec spec{static_cast<int>(used), static_cast<int>(used), 1.0F, {1.702F, 1.0F, 7.0F}};
    const Matrix x = bench.activations(*device, tokens, kHidden);
    const Matrix out = device->allocate(tokens, kHidden);
    const Routing routing = device->allocate_routing(tokens, static_cast<int>(used));
    for (std::size_t i = 0; i < static_cast<std::size_t>(tokens) * used; ++i) {
      routing.experts[i] = static_cast<std::int32_t>(i % used);
      routing.weights[i] = 1.0F / static_cast<float>(used);
    }
    const auto run = [&] { device->moe(weights, spec, x, routing, out); };
    const std::string name = fmt::format("experts MXFP4, {} of {} tokens each", used, tokens);
    if (memory_bound) {
      bench.against_bandwidth(name, memory, run);
    } else {
      bench.against_peak(name, static_cast<double>(tokens) * static_cast<double>(used) * kWeights,
                         true, run);
    }
  }
  bench.clear();
}

AttentionSpec sparse_spec() {
  return {0, kHeads, kKvHeads, kHeadDim, 1e-6F, true, kKvHeads, kHeadDim, 16, 0, 1};
}

std::unique_ptr<KvCache> filled_cache(Bench& bench, Backend& device, int blocks, int layers) {
  const KvCacheSpec spec{blocks, kKvHeads, kHeadDim, kHeadDim,
                         std::vector<bool>(static_cast<std::size_t>(layers), true)};
  auto cache = device.create_kv_cache(spec);
  auto& host = static_cast<HostKvCache<BF16>&>(*cache);
  const std::int64_t size = std::int64_t{kBlockTokens} * kHeadDim;
  for (int l = 0; l < layers; ++l) {
    const auto bytes = bench.bf16_bytes(size * blocks * (2 * kKvHeads + 1));
    const auto count = static_cast<std::size_t>(size) * sizeof(BF16);
    const std::byte* from = bytes.data();
    for (int b = 0; b < blocks; ++b) {
      for (int h = 0; h < kKvHeads; ++h) {
        std::memcpy(host.k(l, b, h), from, count);
        std::memcpy(host.v(l, b, h), from + count, count);
        from += 2 * count;
      }
      std::memcpy(host.index(l, b), from, count);
      from += count;
    }
    bench.clear();
  }
  return cache;
}

void index_scan(Bench& bench) {
  constexpr int kContext = 131072, kLayers = 8;
  const auto device = bench.backend(1, kContext - 1);
  const auto cache = filled_cache(bench, *device, kContext / kBlockTokens, kLayers);
  const auto& host = static_cast<const HostKvCache<BF16>&>(*cache);
  const Matrix q = bench.activations(*device, 1, kKvHeads * kHeadDim);
  const BlockSelection selection = device->allocate_selection(1, kKvHeads, 16);
  std::vector<std::span<const std::byte>> memory;
  for (int l = 0; l < kLayers; ++l) {
    memory.push_back({reinterpret_cast<const std::byte*>(host.index(l, 0)),
                      std::size_t{kContext} * kHeadDim * sizeof(BF16)});
  }
  bench.against_bandwidth(fmt::format("index scan, {} keys x {} layers", kContext, kLayers), memory,
                          [&] {
                            for (int l = 0; l < kLayers; ++l) {
                              AttentionSpec spec = sparse_spec();
                              spec.layer = l;
                              device->select_blocks(spec, q, *cache, selection);
                            }
                          });
}

void attention_decode(Bench& bench) {
  constexpr int kContext = 16384, kLayers = 8;
  const auto device = bench.backend(1, kContext - 1);
  const auto cache = filled_cache(bench, *device, kContext / kBlockTokens, kLayers);
  const auto& host = static_cast<const HostKvCache<BF16>&>(*cache);
  const Matrix q = bench.activations(*device, 1, kHeads * kHeadDim);
  const Matrix out = device->allocate(1, kHeads * kHeadDim);
  std::vector<std::span<const std::byte>> memory;
  const std::size_t bytes = std::size_t{kContext} * kKvHeads * kHeadDim * sizeof(BF16);
  for (int l = 0; l < kLayers; ++l) {
    memory.push_back({reinterpret_cast<const std::byte*>(host.k(l, 0, 0)), bytes});
    memory.push_back({reinterpret_cast<const std::byte*>(host.v(l, 0, 0)), bytes});
  }
  bench.against_bandwidth(
      fmt::format("dense attention, 1 token, {} keys x {} layers", kContext, kLayers), memory, [&] {
        for (int l = 0; l < kLayers; ++l) {
          AttentionSpec spec = sparse_spec();
          spec.layer = l;
          device->attend(spec, q, *cache, nullptr, out);
        }
      });
}

void attention_prefill(Bench& bench) {
  constexpr int kContext = 8192, kTokens = 512;
  const auto device = bench.backend(kTokens, kContext - 1);
  const auto cache = filled_cache(bench, *device, kContext / kBlockTokens, 1);
  const Matrix index_q = bench.activations(*device, kTokens, kKvHeads * kHeadDim);
  const Matrix q = bench.activations(*device, kTokens, kHeads * kHeadDim);
  const Matrix out = device->allocate(kTokens, kHeads * kHeadDim);
  const BlockSelection selection = device->allocate_selection(kTokens, kKvHeads, 16);
  const AttentionSpec spec = sparse_spec();
  bench.against_peak(fmt::format("index scores, {} tokens at {}", kTokens, kContext),
                     double{kTokens} * (kContext - kTokens / 2) * kKvHeads * kHeadDim, false,
                     [&] { device->select_blocks(spec, index_q, *cache, selection); });
  bench.against_peak(fmt::format("sparse attention, {} tokens at {}", kTokens, kContext),
                     double{kTokens} * 16 * kBlockTokens * kHeads * kHeadDim * 2, false,
                     [&] { device->attend(spec, q, *cache, &selection, out); });
}

int run(int threads, const std::string& filter) {
  Bench bench(threads, filter);
  if (bench.wants("machine")) bench.machine();
  bench.clear();
  const std::pair<const char*, void (*)(Bench&)> all[] = {{"bf16", bf16},
                                                          {"experts", experts},
                                                          {"scan", index_scan},
                                                          {"decode", attention_decode},
                                                          {"prefill", attention_prefill}};
  for (const auto& [name, function] : all) {
    if (bench.wants(name)) function(bench);
  }
  return bench.sink() == 1 ? 1 : 0;  // uses the probes' sum
}

}  // namespace
}  // namespace quern::kernels

int main(int argc, char** argv) {
  try {
    return quern::kernels::run(argc > 1 ? std::stoi(argv[1]) : 0, argc > 2 ? argv[2] : "");
  } catch (const std::exception& error) {
    fmt::print(stderr, "kernels_bench: {}\n", error.what());
    return 1;
  }
}
