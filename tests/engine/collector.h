// Submits requests and gathers their outputs until the last one.
// Must never be destroyed before all its requests have finished.
// Proved by use.
#pragma once

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "quern/engine/request.h"

namespace quern::engine::test {

// All that one generation gave.
struct Generated {
  std::string text;
  std::vector<std::int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  Output last;
  int num_outputs = 0;
  bool done = false;
};

// Bit for bit: floats are compared as they are.
inline bool same_result(const Generated& a, const Generated& b) {
  const auto equal = [](const TokenLogprob& x, const TokenLogprob& y) {
    return x.token_id == y.token_id && x.logprob == y.logprob;
  };
  if (a.text != b.text || a.tokens != b.tokens || a.logprobs.size() != b.logprobs.size() ||
      a.last.finish_reason != b.last.finish_reason) {
    return false;
  }
  for (std::size_t i = 0; i < a.logprobs.size(); ++i) {
    const auto& x = a.logprobs[i];
    const auto& y = b.logprobs[i];
    if (!equal(x.chosen, y.chosen) || x.top.size() != y.top.size()) return false;
    for (std::size_t k = 0; k < x.top.size(); ++k) {
      if (!equal(x.top[k], y.top[k])) return false;
    }
  }
  return true;
}

class Collector {
 public:
  template <typename EngineType>
  void submit(EngineType& engine, GenerationRequest request) {
    const std::string id = request.id;
    request.on_output = [this, id](Output output) { add(id, std::move(output)); };
    {
      const std::lock_guard lock(mutex_);
      results_[id] = {};
    }
    engine.submit(std::move(request));
  }

  Generated wait(const std::string& id) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return results_.at(id).done; });
    return results_.at(id);
  }

  // Until the generation has `count` tokens or is done.
  void wait_tokens(const std::string& id, std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock,
                  [&] { return results_.at(id).done || results_.at(id).tokens.size() >= count; });
  }

 private:
  void add(const std::string& id, Output output) {
    const std::lock_guard lock(mutex_);
    Generated& result = results_.at(id);
    result.text += output.text;
    result.tokens.insert(result.tokens.end(), output.token_ids.begin(), output.token_ids.end());
    result.logprobs.insert(result.logprobs.end(), output.logprobs.begin(), output.logprobs.end());
    result.prompt_logprobs.insert(result.prompt_logprobs.end(), output.prompt_logprobs.begin(),
                                  output.prompt_logprobs.end());
    result.done = output.finish_reason.has_value();
    result.last = std::move(output);
    ++result.num_outputs;
    changed_.notify_all();
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, Generated> results_;
};

}  // namespace quern::engine::test
