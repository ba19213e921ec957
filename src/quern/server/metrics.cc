// See metrics.h. Names and buckets: vLLM v1/metrics/loggers.py.
#include "quern/server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/histogram.h>
#include <prometheus/metric_family.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <limits>
#include <utility>
#include <vector>

namespace quern::server {
namespace {

using Buckets = prometheus::Histogram::BucketBoundaries;
using Labels = std::map<std::string, std::string>;

const Buckets kFirstToken{.001, .005, .01, .02, .04, .06, .08, .1, .25, .5,  .75,
                          1,    2.5,  5,   7.5, 10,  20,  40,  80, 160, 640, 2560};
const Buckets kBetweenTokens{.01, .025, .05, .075, .1,  .15, .2, .3, .4, .5,
                             .75, 1,    2.5, 5,    7.5, 10,  20, 40, 80};
const Buckets kChoices{1, 2, 5, 10, 20};
const Buckets kRequest{.3, .5, .8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                       30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680};

// 1, 2, 5, 10, 20, 50, ... up to the longest request.
Buckets length_buckets(int max_model_len) {
  Buckets buckets;
  for (double decade = 1;; decade *= 10) {
    for (const double step : {1.0, 2.0, 5.0}) {
      if (decade * step > max_model_len) return buckets;
      buckets.push_back(decade * step);
    }
  }
}

double seconds(std::chrono::steady_clock::duration duration) {
  return std::chrono::duration<double>(duration).count();
}

}  // namespace

struct Metrics::Impl {
  Impl(const std::string& model_name, int max_model_len,
       std::map<std::string, std::string> cache_labels)
      : labels{{"model_name", model_name}, {"engine", "0"}},
        cache_config(std::move(cache_labels)),
        lengths(length_buckets(max_model_len)) {
    for (const char* reason : {"stop", "length", "abort", "error"}) {
      Labels with_reason = labels;
      with_reason["finished_reason"] = reason;
      success.push_back(&prometheus::BuildCounter()
                             .Name("vllm:request_success_total")
                             .Help("Count of successfully processed requests.")
                             .Register(registry)
                             .Add(with_reason));
    }
  }

  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add(labels,
                                                                                     buckets);
  }

  // A value that the engine counts, as a family of its own.
  void add(std::vector<prometheus::MetricFamily>& families, prometheus::MetricType type,
           const char* name, const char* help, double value) const {
    prometheus::ClientMetric metric;
    for (const auto& [key, text] : labels) metric.label.push_back({key, text});
    metric.counter.value = metric.gauge.value = value;
    families.push_back({name, help, type, {std::move(metric)}});
  }

  // The engine counts its steps itself.
  prometheus::MetricFamily iteration_tokens(const engine::EngineStats& stats) const {
    prometheus::ClientMetric metric;
    for (const auto& [key, text] : labels) metric.label.push_back({key, text});
    std::uint64_t count = 0;
    for (std::size_t i = 0; i < stats.steps_by_tokens.size(); ++i) {
      count += stats.steps_by_tokens[i];
      const bool last = i == stats.kStepTokenBounds.size();
      metric.histogram.bucket.push_back(
          {count, last ? std::numeric_limits<double>::infinity() : stats.kStepTokenBounds[i]});
    }
    metric.histogram.sample_count = count;
    metric.histogram.sample_sum = static_cast<double>(stats.step_tokens);
    return {"vllm:iteration_tokens_total",
            "Histogram of number of tokens per engine step.",
            prometheus::MetricType::Histogram,
            {std::move(metric)}};
  }

  prometheus::MetricFamily cache_config_info() const {
    prometheus::ClientMetric metric;
    metric.label.push_back({"engine", "0"});
    for (const auto& [key, text] : cache_config) metric.label.push_back({key, text});
    metric.gauge.value = 1;
    return {"vllm:cache_config_info",
            "Information of the LLMEngine CacheConfig",
            prometheus::MetricType::Gauge,
            {std::move(metric)}};
  }

  Labels labels;
  Labels cache_config;
  Buckets lengths;
  mutable prometheus::Registry registry;
  std::vector<prometheus::Counter*> success;  // in the order of engine::FinishReason
  prometheus::Histogram& first_token =
      histogram("vllm:time_to_first_token_seconds", "Histogram of time to first token in seconds.",
                kFirstToken);
  prometheus::Histogram& between_tokens =
      histogram("vllm:inter_token_latency_seconds", "Histogram of inter-token latency in seconds.",
                kBetweenTokens);
  prometheus::Histogram& end_to_end =
      histogram("vllm:e2e_request_latency_seconds",
                "Histogram of end to end request latency in seconds.", kRequest);
  prometheus::Histogram& decode_time = histogram(
      "vllm:request_decode_time_seconds", "Histogram of time spent in the decode phase.", kRequest);
  prometheus::Histogram& queue_time = histogram(
      "vllm:request_queue_time_seconds", "Histogram of time spent in the waiting queue.", kRequest);
  prometheus::Histogram& prefill_time =
      histogram("vllm:request_prefill_time_seconds",
                "Histogram of time spent in the prefill phase.", kRequest);
  prometheus::Histogram& inference_time =
      histogram("vllm:request_inference_time_seconds",
                "Histogram of time spent in prefill and decode together.", kRequest);
  prometheus::Histogram& time_per_token =
      histogram("vllm:request_time_per_output_token_seconds",
                "Histogram of the mean time per output token of a request.", kBetweenTokens);
  prometheus::Histogram& max_generation_tokens =
      histogram("vllm:request_max_num_generation_tokens",
                "Histogram of the most tokens that a choice of the request has.", lengths);
  prometheus::Histogram& choices =
      histogram("vllm:request_params_n", "Histogram of the n request parameter.", kChoices);
  prometheus::Histogram& prompt_tokens =
      histogram("vllm:request_prompt_tokens", "Number of prefill tokens processed.", lengths);
  prometheus::Histogram& generation_tokens = histogram(
      "vllm:request_generation_tokens", "Number of generation tokens processed.", lengths);
  prometheus::Histogram& max_tokens = histogram(
      "vllm:request_params_max_tokens", "Histogram of the max_tokens request parameter.", lengths);
};

Metrics::Metrics(const std::string& model_name, int max_model_len,
                 std::map<std::string, std::string> cache_config)
    : impl_(std::make_unique<Impl>(model_name, max_model_len, std::move(cache_config))) {}
Metrics::~Metrics() = default;

Metrics::Generation::Generation(Metrics& metrics, int prompt_tokens, int max_tokens, int n)
    : metrics_(metrics), prompt_tokens_(prompt_tokens), max_tokens_(max_tokens), n_(n) {}

void Metrics::Generation::output(const engine::Output& output) {
  Impl& impl = *metrics_.impl_;
  const Clock::time_point now = Clock::now();
  if (!output.token_ids.empty()) {
    if (tokens_ == 0) {
      first_ = now;
      impl.first_token.Observe(seconds(now - arrival_));
    } else {
      impl.between_tokens.Observe(seconds(now - last_));
    }
    tokens_ += static_cast<int>(output.token_ids.size());
    last_ = now;
  }
  if (!output.finish_reason) return;
  impl.success[static_cast<std::size_t>(*output.finish_reason)]->Increment();
  impl.end_to_end.Observe(seconds(now - arrival_));
  if (tokens_ > 0) {
    const double first = seconds(first_ - arrival_) - output.queue_seconds;
    impl.queue_time.Observe(output.queue_seconds);
    impl.prefill_time.Observe(first);
    impl.decode_time.Observe(seconds(last_ - first_));
    impl.inference_time.Observe(first + seconds(last_ - first_));
  }
  if (tokens_ > 1) impl.time_per_token.Observe(seconds(last_ - first_) / (tokens_ - 1));
  impl.max_generation_tokens.Observe(tokens_);
  impl.choices.Observe(n_);
  impl.prompt_tokens.Observe(prompt_tokens_);
  impl.generation_tokens.Observe(tokens_);
  impl.max_tokens.Observe(max_tokens_);
}

std::string Metrics::text(const engine::EngineStats& stats) const {
  constexpr auto kGauge = prometheus::MetricType::Gauge;
  constexpr auto kCounter = prometheus::MetricType::Counter;
  const auto number = [](std::uint64_t value) { return static_cast<double>(value); };
  std::vector<prometheus::MetricFamily> families;
  const auto add = [&](auto type, const char* name, const char* help, double value) {
    impl_->add(families, type, name, help, value);
  };
  add(kGauge, "vllm:num_requests_running", "Number of requests in model execution batches.",
      stats.num_requests_running);
  add(kGauge, "vllm:num_requests_waiting", "Number of requests waiting to be processed.",
      stats.num_requests_waiting);
  add(kGauge, "vllm:kv_cache_usage_perc", "KV-cache usage. 1 means 100 percent usage.",
      stats.kv_cache_usage);
  add(kCounter, "vllm:num_preemptions_total", "Cumulative number of preemptions.",
      number(stats.num_preemptions));
  add(kCounter, "vllm:prompt_tokens_total", "Number of prefill tokens processed.",
      number(stats.prompt_tokens));
  add(kCounter, "vllm:generation_tokens_total", "Number of generation tokens processed.",
      number(stats.generation_tokens));
  add(kCounter, "vllm:prefix_cache_queries_total", "Prefix cache queries, in tokens.",
      number(stats.prefix_cache_queries));
  add(kCounter, "vllm:prefix_cache_hits_total", "Prefix cache hits, in tokens.",
      number(stats.prefix_cache_hits));
  add(kCounter, "vllm:mm_cache_queries_total",
      "Multi-modal cache queries, in terms of number of queried items.",
      number(stats.mm_cache_queries));
  add(kCounter, "vllm:mm_cache_hits_total",
      "Multi-modal cache hits, in terms of number of cached items.", number(stats.mm_cache_hits));
  add(kCounter, "quern:images_encoded_total", "Images that the vision tower has encoded.",
      number(stats.images_encoded));
  add(kCounter, "quern:steps_total", "Steps of the engine.", number(stats.steps));
  add(kCounter, "quern:shared_steps_total", "Steps that carried more than one request.",
      number(stats.shared_steps));
  add(kGauge, "quern:max_requests_in_step", "Most requests that one step has carried.",
      number(stats.max_requests_in_step));
  families.push_back(impl_->iteration_tokens(stats));
  if (!impl_->cache_config.empty()) families.push_back(impl_->cache_config_info());
  for (prometheus::MetricFamily& family : impl_->registry.Collect()) {
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace quern::server
