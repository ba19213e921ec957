// quern bench: tokens per second of a checkpoint's model beside the bound of this machine,
// checkpoints with random weights to measure, and latency of a server under load.
// Must never print anything but results to stdout.
// Proved by tests/apps/bench_program_test.cc.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "command.h"
#include "options.h"
#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/progress.h"
#include "quern/bench/load_bench.h"
#include "quern/bench/model_bench.h"
#include "quern/bench/random_checkpoint.h"
#include "quern/bench/report.h"

namespace quern::cli {
namespace {

constexpr const char* kExamples = R"(Examples
  quern bench DIR                                a prompt of 512 tokens (pp512), 32 tokens decoded (tg32)
  quern bench DIR -p 512,2048 -n 32 --batch-sizes 1,8,32 --contexts 512,4096
  quern bench DIR --profile                      where the time of a step goes
  quern bench --make-checkpoint DIR              random weights at MiniMax-M3's widths, 3.7 GB
  quern bench --make-checkpoint DIR --preset experts64     4 layers of 64 experts, 9.5 GB
  quern bench --base-url http://localhost:8000 --request-rate 1,2,4 --num-prompts 100
                                                 latency of a server under load, as vllm bench serve

The columns
  test   pp512: a prompt of 512 tokens; tg32 @ d4096 b8: 32 steps of 8 sequences with 4096 tokens each
  t/s    tokens per second: median of the repetitions, +- half of what lies between slowest and fastest
  bound  what the bytes and multiply-adds of a step allow at the read bandwidth and multiply-add rate
         that this machine shows between the repetitions
  share  t/s of the bound)";

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t begin = 0; begin <= text.size();) {
    const std::size_t end = std::min(text.find(',', begin), text.size());
    parts.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return parts;
}

// A number above 0.
double parse_number(const std::string& text, const char* option) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0))
    throw UsageError("{}: '{}' is not a number above 0", option, text);
  return value;
}

// Counts of a comma-separated list.
std::vector<int> parse_list(const std::string& text, const char* option, int low) {
  std::vector<int> values;
  for (const std::string& part : split(text)) {
    const std::int64_t value = parse_count(part, option);
    if (value < low || value > INT32_MAX)
      throw UsageError("{}: must be at least {}, got {}", option, low, value);
    values.push_back(static_cast<int>(value));
  }
  return values;
}

class BenchCommand {
 public:
  explicit BenchCommand(CLI::App& app) : app_(app) {
    add_measurement();
    add_checkpoint();
    add_load();
    app_.add_option("--seed", seed_, "Of tokens, cache contents and random weights")
        ->capture_default_str();
  }

  void run() {
    refuse_unknown(app_);
    if (!checkpoint_dir_.empty()) {
      if (!model_dir_.empty())
        throw UsageError("--make-checkpoint writes '{}'; measure it with a command of its own",
                         checkpoint_dir_);
      return make_checkpoint();
    }
    if (!load_.base_url.empty()) {
      if (!model_dir_.empty())
        throw UsageError("--base-url measures a server; '{}' needs a command of its own",
                         model_dir_);
      return measure_load();
    }
    if (model_dir_.empty()) {
      throw UsageError(
          "which model? give the directory of a checkpoint, --make-checkpoint DIR or --base-url "
          "URL");
    }
    measure();
  }

 private:
  void add_measurement() {
    app_.add_option("model_dir", model_dir_, "Directory of the checkpoint");
    const auto option = [this](const char* name, auto& target, const char* help) {
      return app_.add_option(both_spellings(name), target, help)
          ->group("Measure")
          ->capture_default_str();
    };
    option("-p,--n-prompt", prompts_, "Prompt lengths; 0: none");
    option("-n,--n-gen", decodes_, "Tokens to decode; 0: none");
    option("--batch-sizes", batch_sizes_, "Sequences that decode at once");
    option("--contexts", contexts_,
           "Tokens in the KV cache before the first decoded one; random keys and values, so that "
           "long ones take no time to make");
    option("-t,--threads", threads_, "Threads; 0: one per core");
    option("-r,--repetitions", options_.repetitions, "How often each test runs")
        ->check(CLI::Range(1, 10000));
    option("--max-num-batched-tokens", options_.max_step_tokens,
           "Tokens of a prompt that a step takes")
        ->check(CLI::Range(1, 1 << 20));
    option("--moe-backend", moe_backend_, "native or emulation, as for quern serve")
        ->check(CLI::IsMember({"native", "emulation"}));
    app_.add_flag("--no-warmup,--no_warmup", no_warmup_, "No uncounted step before each test")
        ->group("Measure");
    app_.add_flag(
            "--cpu-time,--cpu_time", cpu_time_,
            "Seconds of CPU time a thread, not of the clock: for a machine that others use too")
        ->group("Measure");
    app_.add_flag("--profile", options_.profile, "Also where the time of a step goes")
        ->group("Measure");
    option("--json", json_, "Write the results to a file");
  }

  void add_checkpoint() {
    const auto option = [this](const char* name, auto& target, const char* help) {
      return app_.add_option(both_spellings(name), target, help)->group("Make a checkpoint");
    };
    option("--make-checkpoint", checkpoint_dir_,
           "Write a checkpoint with random weights at MiniMax-M3's widths into this directory");
    option("--preset", preset_,
           "default: 1 dense and 3 sparse layers, 16 experts; experts64: 4 sparse layers, 64 "
           "experts")
        ->check(CLI::IsMember({"default", "experts64"}));
    option("--dense-layers", dense_layers_, "Layers with full attention and a dense MLP");
    app_.add_option("--layers,--sparse-layers,--sparse_layers", sparse_layers_,
                    "Layers with block-sparse attention and experts")
        ->group("Make a checkpoint");
    option("--experts", experts_, "Routed experts of a layer");
    option("--vocab-size", vocab_size_,
           "Words of the vocabulary; under load: prompts are random token ids below it");
    option("--dtype", dtype_, "Of the experts: mxfp4, as quern quantize writes them, or bf16")
        ->check(CLI::IsMember({"mxfp4", "bf16"}))
        ->capture_default_str();
  }

  // Names of vllm bench serve.
  void add_load() {
    const auto option = [this](const char* name, auto& target, const char* help) {
      return app_.add_option(both_spellings(name), target, help)->group("Latency under load");
    };
    const auto shown = [&option](const char* name, auto& target, const char* help) {
      return option(name, target, help)->capture_default_str();
    };
    option("--base-url", load_.base_url, "Measure this server");
    shown("--endpoint", load_.endpoint, "Path of its completions");
    option("--model", load_.model, "Name of the model (default: the first that it serves)");
    shown("--num-prompts", load_.num_prompts, "Requests")->check(CLI::Range(1, 1 << 20));
    shown("--request-rate", request_rates_, "Requests a second, or inf; a run for each of a list");
    shown("--burstiness", load_.burstiness, "1: a Poisson process; more: more even")
        ->check(CLI::PositiveNumber);
    option("--max-concurrency", load_.max_concurrency, "Requests at a time (default: no limit)")
        ->check(CLI::Range(1, 4096));
    shown("--random-input-len", load_.random_input_len, "Tokens of a prompt")
        ->check(CLI::PositiveNumber);
    shown("--random-output-len", load_.random_output_len, "Tokens of an answer")
        ->check(CLI::PositiveNumber);
    app_.add_flag("--ignore-eos,--ignore_eos", load_.ignore_eos,
                  "Answers are as long as they may be")
        ->group("Latency under load");
    shown("--percentile-metrics", metrics_, "Of ttft, tpot, itl and e2el");
    shown("--metric-percentiles", percentiles_, "Percentiles to print");
  }

  void measure_load() {
    const auto choose = [](const std::string& text) {
      return text == "inf" ? std::numeric_limits<double>::infinity()
                           : parse_number(text, "--request-rate");
    };
    std::vector<double> percentiles;
    for (const std::string& text : split(percentiles_)) {
      percentiles.push_back(parse_number(text, "--metric-percentiles"));
      if (percentiles.back() > 100) throw UsageError("--metric-percentiles: {} is above 100", text);
    }
    for (const std::string& metric : split(metrics_))
      require_choice("--percentile-metrics", metric, "ttft, tpot, itl, e2el");
    load_.api_key = environment("OPENAI_API_KEY").value_or("");
    if (!vocab_size_.empty()) load_.vocab_size = parse_list(vocab_size_, "--vocab-size", 1).front();
    load_.seed = seed_;
    Json all = Json::array();
    for (const std::string& rate : split(request_rates_)) {
      load_.request_rate = choose(rate);
      Progress progress("requests", static_cast<std::uint64_t>(load_.num_prompts),
                        ProgressUnit::kItems);
      const bench::LoadResult result = bench::run_load(load_, [&] { progress.add(1); });
      progress.finish();
      print(bench::load_table(result, split(metrics_), percentiles));
      all.push_back(bench::load_json(result, percentiles));
    }
    if (!json_.empty()) write_file(json_, all.dump(2) + "\n");
  }

  void make_checkpoint() {
    if (preset_ == "experts64") {
      checkpoint_.dense_layers = 0;
      checkpoint_.sparse_layers = 4;
      checkpoint_.num_local_experts = 64;
    }
    const auto choose = [](const std::string& text, const char* option, std::int64_t& target) {
      if (!text.empty()) target = parse_count(text, option);
    };
    choose(dense_layers_, "--dense-layers", checkpoint_.dense_layers);
    choose(sparse_layers_, "--sparse-layers", checkpoint_.sparse_layers);
    choose(experts_, "--experts", checkpoint_.num_local_experts);
    choose(vocab_size_, "--vocab-size", checkpoint_.vocab_size);
    checkpoint_.mxfp4 = dtype_ == "mxfp4";
    checkpoint_.seed = seed_;
    bench::check_options(checkpoint_);
    const std::uint64_t bytes = bench::random_checkpoint_bytes(checkpoint_);
    {
      Progress progress("writing", bytes, ProgressUnit::kBytes);
      bench::write_random_checkpoint(checkpoint_dir_, checkpoint_, 0,
                                     [&](std::uint64_t count) { progress.add(count); });
    }
    fmt::print("{}: {}\n", checkpoint_dir_, bytes_text(static_cast<double>(bytes)));
  }

  std::vector<bench::BenchTest> tests() const {
    std::vector<bench::BenchTest> list;
    for (const int prompt : parse_list(prompts_, "-p", 0))
      if (prompt > 0) list.push_back({.prompt_tokens = prompt});
    for (const int decode : parse_list(decodes_, "-n", 0)) {
      if (decode == 0) continue;
      for (const int context : parse_list(contexts_, "--contexts", 0))
        for (const int batch : parse_list(batch_sizes_, "--batch-sizes", 1))
          list.push_back({.decode_tokens = decode, .context = context, .batch_size = batch});
    }
    if (list.empty()) throw UsageError("nothing to measure: -p and -n are 0");
    return list;
  }

  void measure() {
    const std::vector<bench::BenchTest> list = tests();
    options_.model_dir = model_dir_;
    options_.warmup = !no_warmup_;
    options_.seed = seed_;
    if (cpu_time_) options_.clock = bench::Clock::kCpu;
    if (moe_backend_ == "emulation") options_.moe_backend = kernels::MoeBackend::kEmulation;
    for (const bench::BenchTest& test : list)
      options_.max_batch_size = std::max(options_.max_batch_size, test.batch_size);
    std::vector<bench::BenchRow> rows;
    print(bench::table_header());
    for (const int threads : parse_list(threads_, "--threads", 0)) {
      options_.threads = threads;
      bench::ModelBench bench(options_);
      for (const bench::BenchTest& test : list) bench.check(test);
      for (const bench::BenchTest& test : list) {
        rows.push_back({bench.summary(), bench.threads(), bench.run(test)});
        print(bench::table_row(rows.back()));
      }
    }
    print("\n" + bench::machine_lines(rows));
    if (options_.profile)
      for (const bench::BenchRow& row : rows) print(bench::profile_table(row));
    if (!json_.empty()) write_file(json_, bench::results_json(rows).dump(2) + "\n");
  }

  // A row is seen when it is there, not when all are.
  static void print(const std::string& text) {
    fmt::print("{}", text);
    std::fflush(stdout);
  }

  CLI::App& app_;
  std::string model_dir_;
  bench::ModelBenchOptions options_;
  std::string prompts_ = "512";
  std::string decodes_ = "32";
  std::string batch_sizes_ = "1";
  std::string contexts_ = "512";
  std::string threads_ = "0";
  std::string moe_backend_ = "native";
  bool no_warmup_ = false;
  bool cpu_time_ = false;
  std::string json_;
  std::uint64_t seed_ = 1;
  bench::LoadOptions load_;
  std::string request_rates_ = "inf";
  std::string metrics_ = "ttft,tpot,itl";
  std::string percentiles_ = "99";
  bench::RandomCheckpointOptions checkpoint_;
  std::string checkpoint_dir_;
  std::string preset_ = "default";
  std::string dense_layers_, sparse_layers_, experts_, vocab_size_;
  std::string dtype_ = "mxfp4";
};

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* command = app.add_subcommand(
      "bench", "Tokens per second beside what this machine could do; latency under load");
  prepare(*command);
  command->footer(kExamples);
  const auto state = std::make_shared<BenchCommand>(*command);
  command->callback([state] { state->run(); });
}

}  // namespace quern::cli
