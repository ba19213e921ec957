// See model_bench.h.
#include "quern/bench/model_bench.h"

#include <fmt/format.h>

#include <algorithm>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/base/split_mix.h"
#include "quern/base/thread_team.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/inspect.h"
#include "quern/engine/available_memory.h"
#include "quern/engine/block_pool.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/machine_probe.h"
#include "quern/model/text_model.h"

namespace quern::bench {
namespace {

constexpr std::size_t kProbeBytes = std::size_t{1} << 30;

// "MXFP4" where the checkpoint says so, else the dtype of its matrices.
std::string format_name(const ModelConfig& config) {
  return config.quantization_config ? "MXFP4" : config.torch_dtype == "float32" ? "F32" : "BF16";
}

// What this machine does with the weights where they lie: read bandwidth on them, multiply-adds.
class MachineProbe {
 public:
  MachineProbe(const Checkpoint& checkpoint, int threads, Clock clock)
      : checkpoint_(checkpoint), team_(threads), clock_(clock) {}

  int threads() const { return team_.size(); }

  // Reads all weights once, so that the first test does not wait for the disk.
  void read_everything() {
    for (const SafetensorsFile& shard : checkpoint_.shards())
      sum_ += kernels::read_all(team_, shard.data());
  }

  // Half of the time reads, a quarter multiplies each way.
  MachineRates measure(double probe_seconds) {
    MachineRates rates;
    double bytes = 0, seconds = 0;
    while (seconds < probe_seconds / 2) {
      const std::span<const std::byte> part = next_part();
      const Stopwatch watch(clock_, team_.size());
      sum_ += kernels::read_all(team_, part);
      seconds += watch.seconds();
      bytes += static_cast<double>(part.size());
    }
    rates.read_bytes_per_second = bytes / seconds;
    rates.int8_multiply_adds_per_second =
        kernels::int8_multiply_adds_per_second(team_, probe_seconds / 4);
    rates.float_multiply_adds_per_second =
        kernels::float_multiply_adds_per_second(team_, probe_seconds / 4);
    return rates;
  }

 private:
  // The shards in turn, of each at most kProbeBytes.
  std::span<const std::byte> next_part() {
    const auto data = checkpoint_.shards()[next_++ % checkpoint_.shards().size()].data();
    return data.first(std::min(data.size(), kProbeBytes));
  }

  const Checkpoint& checkpoint_;
  ThreadTeam team_;
  Clock clock_;
  std::size_t next_ = 0;
  std::uint64_t sum_ = 0;
};

MachineRates mean(const MachineRates& a, const MachineRates& b) {
  return {(a.read_bytes_per_second + b.read_bytes_per_second) / 2,
          (a.int8_multiply_adds_per_second + b.int8_multiply_adds_per_second) / 2,
          (a.float_multiply_adds_per_second + b.float_multiply_adds_per_second) / 2};
}

MachineRates medians(const std::vector<MachineRates>& all) {
  const auto of = [&](double MachineRates::*member) {
    std::vector<double> values;
    for (const MachineRates& rates : all) values.push_back(rates.*member);
    return median(std::move(values));
  };
  return {of(&MachineRates::read_bytes_per_second),
          of(&MachineRates::int8_multiply_adds_per_second),
          of(&MachineRates::float_multiply_adds_per_second)};
}

std::unique_ptr<kernels::Backend> make_backend(const ModelBenchOptions& options) {
  return kernels::make_cpu_backend(
      {.num_threads = options.threads, .moe_backend = options.moe_backend});
}

}  // namespace

double median(std::vector<double> values) {
  QUERN_CHECK(!values.empty());
  std::ranges::sort(values);
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::string BenchTest::name() const {
  std::string text =
      decode_tokens == 0 ? fmt::format("pp{}", prompt_tokens) : fmt::format("tg{}", decode_tokens);
  if (context > 0) text += fmt::format(" @ d{}", context);
  if (batch_size > 1) text += fmt::format(" b{}", batch_size);
  return text;
}

double BenchResult::tokens_per_second() const { return test.tokens() / median(seconds); }

double BenchResult::spread() const {
  const auto [fastest, slowest] = std::ranges::minmax(seconds);
  return (test.tokens() / fastest - test.tokens() / slowest) / 2;
}

double BenchResult::bound_tokens_per_second() const { return test.tokens() / median(bounds); }

double BenchResult::share_of_bound() const {
  std::vector<double> shares;
  for (std::size_t i = 0; i < seconds.size(); ++i) shares.push_back(bounds[i] / seconds[i]);
  return median(std::move(shares));
}

struct ModelBench::Impl {
  explicit Impl(const ModelBenchOptions& given)
      : options(given),
        checkpoint(Checkpoint::open(given.model_dir)),
        config(parse_model_config(checkpoint.config())),
        probe(checkpoint, given.threads, given.clock) {
    if (options.profile) {
      timed = std::make_unique<TimedBackend>(make_backend(options), options.clock, probe.threads());
    } else {
      plain = make_backend(options);
    }
    const int tokens = std::max(options.max_step_tokens, options.max_batch_size);
    model = std::make_unique<model::TextModel>(checkpoint, config, backend(),
                                               model::ModelLimits{tokens, options.max_batch_size});
    cost = std::make_unique<ModelCost>(checkpoint, config, options.moe_backend);
    trace.on_routing = [this](int, std::span<const std::int32_t> experts) { count(experts); };
    const Tally total = inspect(checkpoint).total();
    summary = {fmt::format("{} {}", config.model_type, format_name(config)), total.bytes,
               total.parameters};
    const std::uint64_t available = engine::available_memory_bytes();
    if (available == 0 || total.bytes < available) {
      probe.read_everything();
    } else {
      spdlog::warn(
          "the checkpoint ({}) is larger than the memory that is free ({}): what is measured is "
          "the disk too",
          bytes_text(static_cast<double>(total.bytes)), bytes_text(static_cast<double>(available)));
    }
  }

  kernels::Backend& backend() { return timed ? *timed : *plain; }

  void check(const BenchTest& test) const {
    QUERN_CHECK((test.prompt_tokens > 0) != (test.decode_tokens > 0) && test.context >= 0);
    QUERN_CHECK(test.batch_size >= 1 && test.batch_size <= options.max_batch_size);
    const std::int64_t last = std::int64_t{test.context} + test.prompt_tokens + test.decode_tokens;
    if (last > config.text_config.max_position_embeddings) {
      throw Error("{}: {} positions are needed, the model has max_position_embeddings {}",
                  test.name(), last, config.text_config.max_position_embeddings);
    }
    const auto spec = model->kv_cache_spec(blocks_of(test) * test.batch_size);
    const auto needed = static_cast<std::uint64_t>((timed ? *timed : *plain).kv_block_bytes(spec) *
                                                   spec.num_blocks);
    const std::uint64_t available = engine::available_memory_bytes();
    if (available == 0 || needed <= available) return;
    throw Error("{}: its KV cache needs {}, of {} that are free", test.name(),
                bytes_text(static_cast<double>(needed)),
                bytes_text(static_cast<double>(available)));
  }

  static int blocks_of(const BenchTest& test) {
    return engine::blocks_for(test.context + test.prompt_tokens + test.decode_tokens);
  }

  // The block tables and random tokens of a test; the same for the same seed.
  void set_up(const BenchTest& test) {
    const int blocks = blocks_of(test);
    cache.reset();
    cache = backend().create_kv_cache(model->kv_cache_spec(blocks * test.batch_size));
    backend().fill_kv_random(*cache, options.seed);
    tables.assign(static_cast<std::size_t>(test.batch_size), {});
    std::int32_t block = 0;
    for (auto& table : tables)
      for (int i = 0; i < blocks; ++i) table.push_back(block++);
    SplitMix64 words(options.seed);
    const auto ids = static_cast<std::uint64_t>(config.text_config.vocab_size);
    tokens.assign(tables.size(), {});
    for (auto& list : tokens)
      for (int i = 0; i < test.prompt_tokens + test.decode_tokens; ++i)
        list.push_back(static_cast<std::int32_t>(words.next() % ids));
    logits.resize(tables.size() * static_cast<std::size_t>(config.text_config.vocab_size));
  }

  // Tokens [begin, begin + count) of each sequence as one step; what it costs is added to `sum`.
  void step(const BenchTest& test, int begin, int count, bool wants_logits, StepCost* sum) {
    chunks.clear();
    for (std::size_t s = 0; s < tables.size(); ++s) {
      chunks.push_back({std::span(tokens[s]).subspan(static_cast<std::size_t>(begin),
                                                     static_cast<std::size_t>(count)),
                        test.context + begin, tables[s], wants_logits});
    }
    chosen.clear();
    model->forward(chunks, *cache, wants_logits ? std::span(logits) : std::span<float>(), &trace);
    if (sum == nullptr) return;
    const StepSequence one{test.context + begin, count, wants_logits};
    *sum += cost->step(std::vector<StepSequence>(tables.size(), one), chosen);
  }

  // How many different experts a layer's tokens chose.
  void count(std::span<const std::int32_t> experts) {
    std::vector<bool> seen(static_cast<std::size_t>(config.text_config.num_local_experts));
    for (const std::int32_t expert : experts) seen[static_cast<std::size_t>(expert)] = true;
    chosen.push_back(std::ranges::count(seen, true));
  }

  // Tokens of each sequence in a step.
  int step_size(const BenchTest& test) const {
    if (test.decode_tokens > 0) return 1;
    return std::min(test.prompt_tokens, std::max(1, options.max_step_tokens / test.batch_size));
  }

  // All steps of a test; returns their number.
  int run_steps(const BenchTest& test, StepCost* sum) {
    const int total = test.prompt_tokens + test.decode_tokens;
    const int piece = step_size(test);
    int steps = 0;
    for (int begin = 0; begin < total; begin += piece, ++steps) {
      const int count = std::min(piece, total - begin);
      step(test, begin, count, test.decode_tokens > 0 || begin + count == total, sum);
    }
    return steps;
  }

  BenchResult run(const BenchTest& test) {
    check(test);
    set_up(test);
    BenchResult result;
    result.test = test;
    result.clock = options.clock;
    if (options.warmup) step(test, 0, step_size(test), true, nullptr);
    if (timed) timed->clear();
    StepCost sum;
    std::vector<MachineRates> rates;
    MachineRates before = probe.measure(options.probe_seconds);
    for (int i = 0; i < options.repetitions; ++i) {
      sum = {};
      const Stopwatch watch(options.clock, probe.threads());
      result.steps = run_steps(test, &sum);
      result.seconds.push_back(watch.seconds());
      const MachineRates after = probe.measure(options.probe_seconds);
      rates.push_back(mean(before, after));
      before = after;
      result.bounds.push_back(bound_seconds(sum.total(), rates.back()));
    }
    result.cost = sum.total();
    result.rates = medians(rates);
    if (timed) fill_profile(sum, result);
    cache.reset();
    return result;
  }

  void fill_profile(const StepCost& sum, BenchResult& result) const {
    for (std::size_t i = 0; i < kNumOperations; ++i) {
      OperationProfile& entry = result.profile[i];
      entry.time = timed->times()[i];
      entry.seconds = entry.time.seconds / options.repetitions;
      entry.cost = sum.operations[i];
      entry.bound_seconds = bench::bound_seconds(entry.cost, result.rates);
    }
  }

  ModelBenchOptions options;
  Checkpoint checkpoint;
  ModelConfig config;
  MachineProbe probe;
  std::unique_ptr<kernels::Backend> plain;  // one of the two
  std::unique_ptr<TimedBackend> timed;
  std::unique_ptr<model::TextModel> model;
  std::unique_ptr<ModelCost> cost;
  ModelSummary summary;
  // Of the running test.
  std::unique_ptr<kernels::KvCache> cache;
  std::vector<std::vector<std::int32_t>> tables, tokens;  // of each sequence
  std::vector<float> logits;
  std::vector<model::SequenceChunk> chunks;
  model::ForwardTrace trace;
  std::vector<std::int64_t> chosen;  // different experts, of each MoE layer of the step
};

ModelBench::ModelBench(const ModelBenchOptions& options) : impl_(std::make_unique<Impl>(options)) {}
ModelBench::~ModelBench() = default;

const ModelSummary& ModelBench::summary() const { return impl_->summary; }
int ModelBench::threads() const { return impl_->probe.threads(); }
void ModelBench::check(const BenchTest& test) const { impl_->check(test); }
BenchResult ModelBench::run(const BenchTest& test) { return impl_->run(test); }

}  // namespace quern::bench
