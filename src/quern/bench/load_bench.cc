// See load_bench.h.
#include "quern/bench/load_bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/split_mix.h"
#include "quern/eval/http_connection.h"

namespace quern::bench {
namespace {

using SteadyClock = std::chrono::steady_clock;

constexpr int kMaxThreads = 4096;  // each waits for one request
constexpr std::chrono::seconds kModelsTimeout{30};
constexpr std::size_t kMaxErrorText = 300;

double seconds_since(SteadyClock::time_point start) {
  return std::chrono::duration<double>(SteadyClock::now() - start).count();
}

using Headers = std::vector<std::pair<std::string, std::string>>;

Headers headers_of(const LoadOptions& options, const HttpUrl& url) {
  Headers headers = {{"Host", url.host_header()}, {"Content-Type", "application/json"}};
  if (!options.api_key.empty()) headers.emplace_back("Authorization", "Bearer " + options.api_key);
  return headers;
}

// A path below that of the base URL.
std::string target_of(const HttpUrl& url, const std::string& path) {
  std::string base = url.target;
  while (base.ends_with('/')) base.pop_back();
  return base + path;
}

std::string first_model(const LoadOptions& options, const HttpUrl& url) {
  HttpConnection connection(url, {});
  const HttpResponse response = connection.request("GET", target_of(url, "/v1/models"), "",
                                                   headers_of(options, url), kModelsTimeout);
  const std::string place = url.host_header() + "/v1/models";
  if (response.status != 200) throw Error("{}: status {}", place, response.status);
  const Json models = parse_json(response.body, place);
  const Json data = models.is_object() ? models.value("data", Json::array()) : Json::array();
  if (!data.is_array() || data.empty() || !data[0].is_object() || !data[0].contains("id") ||
      !data[0]["id"].is_string()) {
    throw Error("{}: expected a list of models, found {}", place,
                response.body.substr(0, kMaxErrorText));
  }
  return data[0]["id"];
}

std::string request_body(const LoadOptions& options, int number) {
  SplitMix64 words(options.seed * 0x9e3779b97f4a7c15U + static_cast<std::uint64_t>(number));
  Json prompt = Json::array();
  for (int i = 0; i < options.random_input_len; ++i)
    prompt.push_back(words.next() % static_cast<std::uint64_t>(options.vocab_size));
  const Json body = {{"model", options.model},
                     {"prompt", std::move(prompt)},
                     {"max_tokens", options.random_output_len},
                     {"temperature", 0},
                     {"ignore_eos", options.ignore_eos},
                     {"stream", true},
                     {"stream_options", {{"include_usage", true}}}};
  return body.dump();
}

// Sends a request and waits for its end; failures are part of the record.
RequestRecord send_request(HttpConnection& connection, const LoadOptions& options,
                           const HttpUrl& url, const std::string& body) {
  StreamReader reader;
  RequestRecord record;
  const auto start = SteadyClock::now();
  try {
    const auto timeout =
        std::chrono::milliseconds(static_cast<std::int64_t>(options.timeout_seconds * 1e3));
    const HttpResponse response = connection.request(
        "POST", target_of(url, options.endpoint), body, headers_of(options, url), timeout,
        [&](std::string_view piece) { reader.feed(piece, seconds_since(start)); });
    record = reader.finish(response.status, response.body);
  } catch (const Error& error) {
    record.error = error.what();
  }
  record.input_tokens = options.random_input_len;
  return record;
}

double mean_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

struct Totals {
  int completed = 0;
  std::int64_t input_tokens = 0, output_tokens = 0;
};

Totals totals_of(const LoadResult& result) {
  Totals totals;
  for (const RequestRecord& request : result.requests) {
    if (!request.success()) continue;
    ++totals.completed;
    totals.input_tokens += request.input_tokens;
    totals.output_tokens += request.output_tokens;
  }
  return totals;
}

// "99", "99.9".
std::string percent_name(double percent) { return fmt::format("p{:g}", percent); }

std::string line(std::string_view name, const std::string& value) {
  return fmt::format("{:<40} {:<10}\n", name, value);
}

}  // namespace

std::vector<double> arrival_times(const LoadOptions& options) {
  std::vector<double> times(static_cast<std::size_t>(options.num_prompts), 0.0);
  if (std::isinf(options.request_rate)) return times;
  std::mt19937_64 random(options.seed);
  std::gamma_distribution<double> wait(options.burstiness,
                                       1 / (options.request_rate * options.burstiness));
  double sum = 0;
  for (double& time : times) time = sum += wait(random);
  const double factor = options.num_prompts / options.request_rate / sum;
  for (double& time : times) time *= factor;
  return times;
}

void StreamReader::feed(std::string_view bytes, double seconds) {
  for (const char c : bytes) {
    if (c == '\r') continue;
    if (c != '\n') {
      line_ += c;
      continue;
    }
    constexpr std::string_view kData = "data: ";
    if (line_.starts_with(kData)) event(std::string_view(line_).substr(kData.size()), seconds);
    line_.clear();
  }
}

void StreamReader::event(std::string_view data, double seconds) {
  if (data == "[DONE]" || !record_.error.empty()) return;
  Json json;
  try {
    json = parse_json(data, "an event of the stream");
  } catch (const Error& error) {
    record_.error = error.what();
    return;
  }
  if (!json.is_object()) return;
  if (json.contains("error")) {
    record_.error = json["error"].dump();
    return;
  }
  const Json usage = json.value("usage", Json());
  if (usage.is_object()) record_.output_tokens = usage.value("completion_tokens", 0);
  const Json choices = json.value("choices", Json());
  if (!choices.is_array() || choices.empty() || !choices[0].is_object()) return;
  // An event that only says why the text has ended is no piece of it.
  const Json text = choices[0].value("text", Json());
  const bool empty = !text.is_string() || text.get_ref<const std::string&>().empty();
  if (empty && !choices[0].value("finish_reason", Json()).is_null()) return;
  if (pieces_++ == 0) {
    record_.ttft = seconds;
  } else {
    record_.itl.push_back(seconds - record_.latency);
  }
  record_.latency = seconds;
}

RequestRecord StreamReader::finish(int status, std::string_view body) {
  if (status != 200) {
    record_.error = fmt::format("status {}: {}", status, body.substr(0, kMaxErrorText));
  } else if (pieces_ == 0 && record_.error.empty()) {
    record_.error = "the stream has no text";
  }
  if (record_.output_tokens == 0) record_.output_tokens = pieces_;
  return std::move(record_);
}

LoadResult run_load(LoadOptions options, const std::function<void()>& on_done) {
  const HttpUrl url = HttpUrl::parse(options.base_url);
  if (options.model.empty()) options.model = first_model(options, url);
  {
    HttpConnection connection(url, {});
    const RequestRecord first = send_request(connection, options, url, request_body(options, -1));
    if (!first.success()) throw Error("the first request failed: {}", first.error);
  }
  LoadResult result;
  result.options = options;
  result.requests.resize(static_cast<std::size_t>(options.num_prompts));
  const std::vector<double> times = arrival_times(options);
  const int at_a_time = options.max_concurrency > 0 ? options.max_concurrency : kMaxThreads;
  std::atomic<std::size_t> next{0};
  const auto start = SteadyClock::now();
  const auto work = [&] {
    HttpConnection connection(url, {});
    for (std::size_t i; (i = next.fetch_add(1)) < result.requests.size();) {
      const std::string body = request_body(options, static_cast<int>(i));
      std::this_thread::sleep_until(start + std::chrono::duration_cast<SteadyClock::duration>(
                                                std::chrono::duration<double>(times[i])));
      result.requests[i] = send_request(connection, options, url, body);
      if (on_done) on_done();
    }
  };
  std::vector<std::thread> threads;
  for (int i = 0; i < std::min(options.num_prompts, at_a_time); ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  result.duration = seconds_since(start);
  return result;
}

double LatencyFigure::mean() const { return mean_of(values_ms); }

double LatencyFigure::deviation() const {
  const double center = mean();
  std::vector<double> squares;
  for (const double value : values_ms) squares.push_back((value - center) * (value - center));
  return std::sqrt(mean_of(squares));
}

double LatencyFigure::percentile(double percent) const {
  if (values_ms.empty()) return 0;
  std::vector<double> sorted = values_ms;
  std::ranges::sort(sorted);
  const double place = percent / 100 * static_cast<double>(sorted.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

std::vector<LatencyFigure> latency_figures(const LoadResult& result) {
  LatencyFigure ttft{"ttft", "Time to First Token", {}};
  LatencyFigure tpot{"tpot", "Time per Output Token (excl. 1st token)", {}};
  LatencyFigure itl{"itl", "Inter-token Latency", {}};
  LatencyFigure e2el{"e2el", "End-to-end Latency", {}};
  for (const RequestRecord& request : result.requests) {
    if (!request.success()) continue;
    ttft.values_ms.push_back(request.ttft * 1e3);
    e2el.values_ms.push_back(request.latency * 1e3);
    for (const double wait : request.itl) itl.values_ms.push_back(wait * 1e3);
    if (request.output_tokens > 1)
      tpot.values_ms.push_back((request.latency - request.ttft) / (request.output_tokens - 1) *
                               1e3);
  }
  return {ttft, tpot, itl, e2el};
}

std::string load_table(const LoadResult& result, const std::vector<std::string>& metrics,
                       const std::vector<double>& percentiles) {
  const Totals totals = totals_of(result);
  const auto rate = [&](auto count) {
    return fmt::format("{:.2f}", static_cast<double>(count) / result.duration);
  };
  std::string text = fmt::format("{:=^50}\n", " Serving Benchmark Result ");
  text += line("Successful requests:", fmt::to_string(totals.completed));
  text += line("Failed requests:",
               fmt::to_string(static_cast<int>(result.requests.size()) - totals.completed));
  if (result.options.max_concurrency > 0)
    text += line("Maximum request concurrency:", fmt::to_string(result.options.max_concurrency));
  if (!std::isinf(result.options.request_rate))
    text +=
        line("Request rate configured (RPS):", fmt::format("{:.2f}", result.options.request_rate));
  text += line("Benchmark duration (s):", fmt::format("{:.2f}", result.duration));
  text += line("Total input tokens:", fmt::to_string(totals.input_tokens));
  text += line("Total generated tokens:", fmt::to_string(totals.output_tokens));
  text += line("Request throughput (req/s):", rate(totals.completed));
  text += line("Output token throughput (tok/s):", rate(totals.output_tokens));
  text += line("Total token throughput (tok/s):", rate(totals.input_tokens + totals.output_tokens));
  for (const LatencyFigure& figure : latency_figures(result)) {
    if (std::ranges::find(metrics, figure.name) == metrics.end()) continue;
    std::string name(figure.name);
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::toupper(c); });
    text += fmt::format("{:-^50}\n", figure.title);
    const auto add = [&](const std::string& what, double value) {
      text += line(fmt::format("{} {} (ms):", what, name), fmt::format("{:.2f}", value));
    };
    add("Mean", figure.mean());
    add("Median", figure.percentile(50));
    for (const double percent : percentiles)
      add(fmt::format("P{:g}", percent), figure.percentile(percent));
  }
  return text + std::string(50, '=') + "\n";
}

Json load_json(const LoadResult& result, const std::vector<double>& percentiles) {
  const Totals totals = totals_of(result);
  const LoadOptions& options = result.options;
  const auto rate = [&](auto count) { return static_cast<double>(count) / result.duration; };
  Json json = {
      {"endpoint_type", "openai"},
      {"model_id", options.model},
      {"num_prompts", options.num_prompts},
      {"request_rate", std::isinf(options.request_rate) ? Json("inf") : Json(options.request_rate)},
      {"burstiness", options.burstiness},
      {"max_concurrency", options.max_concurrency > 0 ? Json(options.max_concurrency) : Json()},
      {"random_input_len", options.random_input_len},
      {"random_output_len", options.random_output_len},
      {"duration", result.duration},
      {"completed", totals.completed},
      {"failed", static_cast<int>(result.requests.size()) - totals.completed},
      {"total_input_tokens", totals.input_tokens},
      {"total_output_tokens", totals.output_tokens},
      {"request_throughput", rate(totals.completed)},
      {"output_throughput", rate(totals.output_tokens)},
      {"total_token_throughput", rate(totals.input_tokens + totals.output_tokens)}};
  for (const LatencyFigure& figure : latency_figures(result)) {
    const auto key = [&](const std::string& what) {
      return fmt::format("{}_{}_ms", what, figure.name);
    };
    json[key("mean")] = figure.mean();
    json[key("median")] = figure.percentile(50);
    json[key("std")] = figure.deviation();
    for (const double percent : percentiles)
      json[key(percent_name(percent))] = figure.percentile(percent);
  }
  for (const char* list : {"input_lens", "output_lens", "ttfts", "itls", "errors"})
    json[list] = Json::array();
  for (const RequestRecord& request : result.requests) {
    json["input_lens"].push_back(request.input_tokens);
    json["output_lens"].push_back(request.output_tokens);
    json["ttfts"].push_back(request.ttft);
    json["itls"].push_back(request.itl);
    json["errors"].push_back(request.error);
  }
  return json;
}

}  // namespace quern::bench
