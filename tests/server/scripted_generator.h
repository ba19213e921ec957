// A generator that plays a script: each request gets the pieces that a test prepared.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "quern/engine/stop_text.h"
#include "quern/server/generator.h"

namespace quern::server {

// Runs one thread a request. cancel() ends it with kAbort.
class ScriptedGenerator final : public Generator {
 public:
  std::vector<std::string> pieces{"Hello", " world"};
  std::chrono::milliseconds pause{0};  // between pieces
  bool endless = false;                // repeats the pieces until cancelled
  bool fail = false;                   // ends with kError instead of `end`
  engine::FinishReason end = engine::FinishReason::kStop;
  bool logprobs = false;    // each token with one
  int prompt_logprobs = 0;  // as many in the first output
  std::function<void(const engine::GenerationRequest&)> on_submit;
  std::atomic<int> cancelled{0};
  std::atomic<int> submitted{0};
  std::atomic<int> running{0};
  std::atomic<bool> is_healthy{true};

  ~ScriptedGenerator() override {
    {
      const std::lock_guard lock(mutex_);
      for (auto& [id, stop] : stops_) stop = true;
    }
    changed_.notify_all();
    for (std::thread& thread : threads_) thread.join();
  }

  void submit(engine::GenerationRequest request) override {
    if (on_submit) on_submit(request);
    const std::lock_guard lock(mutex_);
    ++submitted;
    ++running;
    stops_[request.id] = false;
    threads_.emplace_back([this, request = std::move(request)] { play(request); });
  }

  void cancel(const std::string& id) override {
    {
      const std::lock_guard lock(mutex_);
      const auto stop = stops_.find(id);
      if (stop == stops_.end() || stop->second) return;
      stop->second = true;
      ++cancelled;
    }
    changed_.notify_all();
  }

  engine::EngineStats stats() const override {
    engine::EngineStats stats;
    stats.num_requests_running = running;
    stats.steps = 7;
    stats.shared_steps = 3;
    return stats;
  }
  bool healthy() const override { return is_healthy; }

 private:
  void play(const engine::GenerationRequest& request) {
    int tokens = 0;
    engine::Output output;
    engine::StopText stop(request.sampling, request.reasoning);
    std::string stop_string;
    const auto send = [&](std::string text, std::optional<engine::FinishReason> reason) {
      output = {};
      output.text = std::move(text);
      output.token_ids = {tokens % 100};
      for (int i = 0; tokens == 0 && i < prompt_logprobs; ++i) {
        output.prompt_logprobs.push_back({{i % 100, -2.0F}, 1, {{i % 100, -2.0F}}});
      }
      if (logprobs) output.logprobs = {{{tokens % 100, -1.0F}, 1, {}}};
      output.prompt_tokens = static_cast<int>(request.prompt.size());
      output.completion_tokens = ++tokens;
      output.finish_reason = reason;
      output.stop_string = stop_string;
      if (reason == engine::FinishReason::kError) output.error = "scripted failure";
      request.on_output(std::move(output));
      if (reason) --running;  // last: a test may then take down what on_output uses
    };
    do {
      for (const std::string& piece : pieces) {
        if (wait(request.id)) return send("", engine::FinishReason::kAbort);
        std::string text = stop.push(piece, true);
        if (stop.matched() == nullptr) {
          send(std::move(text), std::nullopt);
          continue;
        }
        stop_string = *stop.matched();
        return send(std::move(text), engine::FinishReason::kStop);
      }
    } while (endless);
    std::string held = fail ? std::string() : stop.finish();
    if (stop.matched() != nullptr) stop_string = *stop.matched();
    send(std::move(held), fail ? engine::FinishReason::kError : end);
    const std::lock_guard lock(mutex_);
    stops_.erase(request.id);
  }

  // True when the request was cancelled.
  bool wait(const std::string& id) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, pause, [&] { return stops_[id]; });
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, bool> stops_;
  std::vector<std::thread> threads_;
};

}  // namespace quern::server
