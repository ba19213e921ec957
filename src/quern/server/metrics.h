// Counters and histograms of the server in Prometheus text, under vLLM's names.
// Must never cost a decode step more than a few atomic additions.
// Proved by tests/server/metrics_test.cc.
#pragma once

#include <chrono>
#include <map>
#include <memory>
#include <string>

#include "quern/engine/engine.h"

namespace quern::server {

// Thread-safe.
class Metrics {
 public:
  // `cache_config`: labels of vllm:cache_config_info.
  Metrics(const std::string& model_name, int max_model_len,
          std::map<std::string, std::string> cache_config = {});
  ~Metrics();

  // One generation, from its arrival on. Used by one thread at a time (the engine's).
  class Generation {
   public:
    Generation(Metrics& metrics, int prompt_tokens, int max_tokens, int n = 1);
    void output(const engine::Output& output);

   private:
    using Clock = std::chrono::steady_clock;
    Metrics& metrics_;
    int prompt_tokens_;
    int max_tokens_;
    int n_;
    int tokens_ = 0;
    Clock::time_point arrival_ = Clock::now();
    Clock::time_point last_{};
    Clock::time_point first_{};
  };

  // The whole page for /metrics.
  std::string text(const engine::EngineStats& stats) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace quern::server
