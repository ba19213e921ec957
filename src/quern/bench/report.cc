// See report.h.
#include "quern/bench/report.h"

#include <fmt/format.h>

#include <map>
#include <numeric>

namespace quern::bench {
namespace {

constexpr const char* kRow =
    "| {:<20} | {:>10} | {:>9} | {:>7} | {:<18} | {:>18} | {:>9} | {:>6} |\n";
constexpr double kGib = 1024.0 * 1024.0 * 1024.0;

std::string size_text(std::uint64_t bytes) {
  const double gib = static_cast<double>(bytes) / kGib;
  return gib >= 1 ? fmt::format("{:.2f} GiB", gib) : fmt::format("{:.2f} MiB", gib * 1024);
}

std::string count_text(std::uint64_t count) {
  const double billions = static_cast<double>(count) * 1e-9;
  return billions >= 1 ? fmt::format("{:.2f} B", billions)
                       : fmt::format("{:.2f} M", billions * 1000);
}

Json cost_json(const Cost& cost) {
  return {{"bytes", cost.bytes},
          {"int8_multiply_adds", cost.int8_multiply_adds},
          {"float_multiply_adds", cost.float_multiply_adds}};
}

Json rates_json(const MachineRates& rates) {
  return {{"read_bytes_per_second", rates.read_bytes_per_second},
          {"int8_multiply_adds_per_second", rates.int8_multiply_adds_per_second},
          {"float_multiply_adds_per_second", rates.float_multiply_adds_per_second}};
}

bool has_profile(const BenchResult& result) {
  return std::ranges::any_of(result.profile,
                             [](const OperationProfile& entry) { return entry.time.calls > 0; });
}

Json profile_json(const BenchResult& result) {
  Json list = Json::array();
  for (std::size_t i = 0; i < kNumOperations; ++i) {
    const OperationProfile& entry = result.profile[i];
    Json line = cost_json(entry.cost);
    line["operation"] = operation_name(static_cast<Operation>(i));
    line["calls"] = entry.time.calls;
    line["seconds"] = entry.seconds;
    line["bound_seconds"] = entry.bound_seconds;
    list.push_back(std::move(line));
  }
  return list;
}

Json row_json(const BenchRow& row) {
  const BenchResult& result = row.result;
  Json nanoseconds = Json::array(), speeds = Json::array();
  for (const double seconds : result.seconds) {
    nanoseconds.push_back(static_cast<std::int64_t>(seconds * 1e9));
    speeds.push_back(result.test.tokens() / seconds);
  }
  Json json = {{"model_type", row.model.type},
               {"model_size", row.model.bytes},
               {"model_n_params", row.model.parameters},
               {"n_threads", row.threads},
               {"test", result.test.name()},
               {"n_prompt", result.test.prompt_tokens},
               {"n_gen", result.test.decode_tokens},
               {"n_depth", result.test.context},
               {"batch_size", result.test.batch_size},
               {"steps", result.steps},
               {"clock", result.clock == Clock::kWall ? "wall" : "cpu"},
               {"median_ts", result.tokens_per_second()},
               {"spread_ts", result.spread()},
               {"bound_ts", result.bound_tokens_per_second()},
               {"share_of_bound", result.share_of_bound()},
               {"cost", cost_json(result.cost)},
               {"machine", rates_json(result.rates)},
               {"samples_ns", std::move(nanoseconds)},
               {"samples_ts", std::move(speeds)}};
  if (has_profile(result)) json["profile"] = profile_json(result);
  return json;
}

}  // namespace

std::string table_header() {
  std::string text =
      fmt::format(kRow, "model", "size", "params", "threads", "test", "t/s", "bound", "share");
  std::string line = text;
  for (std::size_t i = 0; i + 1 < line.size(); ++i) {
    const bool edge = line[i] == '|' || line[i + 1] == '|' || (i > 0 && line[i - 1] == '|');
    if (!edge) line[i] = '-';
  }
  return text + line;
}

std::string table_row(const BenchRow& row) {
  const BenchResult& result = row.result;
  return fmt::format(kRow, row.model.type, size_text(row.model.bytes),
                     count_text(row.model.parameters), row.threads, result.test.name(),
                     fmt::format("{:.2f} +- {:.2f}", result.tokens_per_second(), result.spread()),
                     fmt::format("{:.2f}", result.bound_tokens_per_second()),
                     fmt::format("{:.2f}", result.share_of_bound()));
}

std::string machine_lines(const std::vector<BenchRow>& rows) {
  struct Rates {
    std::vector<double> read, int8, floats;
  };
  std::map<int, Rates> by_threads;
  for (const BenchRow& row : rows) {
    Rates& rates = by_threads[row.threads];
    rates.read.push_back(row.result.rates.read_bytes_per_second);
    rates.int8.push_back(row.result.rates.int8_multiply_adds_per_second);
    rates.floats.push_back(row.result.rates.float_multiply_adds_per_second);
  }
  std::string text;
  for (const auto& [threads, rates] : by_threads) {
    text += fmt::format(
        "machine, {} threads: {:.1f} GB/s read, {:.0f} GMAC/s 8-bit, {:.0f} GMAC/s float\n",
        threads, median(rates.read) * 1e-9, median(rates.int8) * 1e-9, median(rates.floats) * 1e-9);
  }
  const bool cpu = !rows.empty() && rows.front().result.clock == Clock::kCpu;
  return cpu ? text + "times are CPU time of a thread\n" : text;
}

std::string profile_table(const BenchRow& row) {
  constexpr const char* kLine = "{:<18} {:>7} {:>11} {:>7} {:>10} {:>10} {:>11} {:>6}\n";
  const BenchResult& result = row.result;
  const double steps = result.steps;
  double timed = 0;
  for (const OperationProfile& entry : result.profile) timed += entry.seconds;
  const double whole = std::accumulate(result.seconds.begin(), result.seconds.end(), 0.0) /
                       static_cast<double>(result.seconds.size());
  std::string text = fmt::format("\n{}, {} threads: a step of {:.3f} ms (mean)\n",
                                 result.test.name(), row.threads, whole / steps * 1e3);
  text += fmt::format(kLine, "operation", "calls", "ms", "%", "MB", "GMAC", "bound ms", "share");
  const auto repetitions = static_cast<double>(result.seconds.size());
  for (std::size_t i = 0; i < kNumOperations; ++i) {
    const OperationProfile& entry = result.profile[i];
    if (entry.time.calls == 0) continue;
    const double macs = entry.cost.int8_multiply_adds + entry.cost.float_multiply_adds;
    text += fmt::format(
        kLine, operation_name(static_cast<Operation>(i)),
        fmt::format("{:.0f}", static_cast<double>(entry.time.calls) / repetitions / steps),
        fmt::format("{:.3f}", entry.seconds / steps * 1e3),
        fmt::format("{:.1f}", 100 * entry.seconds / whole),
        fmt::format("{:.2f}", entry.cost.bytes / steps * 1e-6),
        fmt::format("{:.3f}", macs / steps * 1e-9),
        fmt::format("{:.3f}", entry.bound_seconds / steps * 1e3),
        fmt::format("{:.2f}", entry.bound_seconds / entry.seconds));
  }
  return text + fmt::format(kLine, "between them", "",
                            fmt::format("{:.3f}", (whole - timed) / steps * 1e3),
                            fmt::format("{:.1f}", 100 * (whole - timed) / whole), "", "", "", "");
}

Json results_json(const std::vector<BenchRow>& rows) {
  Json list = Json::array();
  for (const BenchRow& row : rows) list.push_back(row_json(row));
  return list;
}

}  // namespace quern::bench
