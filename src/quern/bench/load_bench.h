// Latency of a server under load, with the definitions of vLLM's `bench serve`
// (vllm/benchmarks/serve.py), against any OpenAI-compatible server that streams completions.
// Must never count time that the client spends before a request is sent.
// Proved by tests/bench/load_bench_test.cc.
#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"

namespace quern::bench {

// Names and defaults of vLLM where it has the option.
struct LoadOptions {
  std::string base_url;
  std::string endpoint = "/v1/completions";
  std::string model;    // empty: the first of /v1/models
  std::string api_key;  // sent as a bearer token unless empty
  int num_prompts = 1000;
  double request_rate = std::numeric_limits<double>::infinity();  // a second; infinite: all at once
  double burstiness = 1.0;  // 1: a Poisson process; more: more even
  int max_concurrency = 0;  // requests at a time; 0: no limit
  int random_input_len = 1024;
  int random_output_len = 128;
  int vocab_size = 512;  // prompts are random token ids below it
  bool ignore_eos = false;
  std::uint64_t seed = 0;
  double timeout_seconds = 6 * 3600;  // of a request
};

// When each request is sent, in seconds: gamma-distributed waits, stretched so that the last is
// sent after num_prompts / request_rate.
std::vector<double> arrival_times(const LoadOptions& options);

// What happened to a request. Times in seconds.
struct RequestRecord {
  std::string error;  // empty: it succeeded
  int input_tokens = 0;
  int output_tokens = 0;    // as the server counts them; else pieces
  double ttft = 0;          // sent to first piece of text
  std::vector<double> itl;  // between pieces of text
  double latency = 0;       // sent to last piece of text

  bool success() const { return error.empty(); }
};

// Notes pieces of an event stream as they come.
class StreamReader {
 public:
  // `seconds`: since the request was sent.
  void feed(std::string_view bytes, double seconds);
  // The stream has ended with this HTTP status.
  RequestRecord finish(int status, std::string_view body);

 private:
  void event(std::string_view data, double seconds);

  RequestRecord record_;
  std::string line_;
  int pieces_ = 0;
};

struct LoadResult {
  LoadOptions options;
  double duration = 0;  // from the first request to the end of the last
  std::vector<RequestRecord> requests;
};

// Sends one request that is not counted, then all of them. Throws an Error when the first fails.
LoadResult run_load(LoadOptions options, const std::function<void()>& on_done = {});

// A figure of all successful requests, in milliseconds: ttft, tpot (per output token behind the
// first), itl, e2el.
struct LatencyFigure {
  std::string_view name;   // ttft
  std::string_view title;  // Time to First Token
  std::vector<double> values_ms;

  double mean() const;
  double deviation() const;                 // of the population, as NumPy's
  double percentile(double percent) const;  // linear between neighbours, as NumPy's
};
std::vector<LatencyFigure> latency_figures(const LoadResult& result);

// As vLLM prints them. `metrics`: names of figures; `percentiles`: besides mean and median.
std::string load_table(const LoadResult& result, const std::vector<std::string>& metrics,
                       const std::vector<double>& percentiles);
// With vLLM's keys.
Json load_json(const LoadResult& result, const std::vector<double>& percentiles);

}  // namespace quern::bench
