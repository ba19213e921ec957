// What ChatService needs of an engine: start and cancel generations, look at counters.
// Must never grow beyond what a fake in a test can play.
// Proved by use in tests/server (a scripted generator) and tests/server/server_e2e_test.cc (the
// engine).
#pragma once

#include <string>
#include <utility>

#include "quern/engine/engine.h"
#include "quern/engine/request.h"

namespace quern::server {

// All functions are thread-safe and mean what those of engine::Engine mean.
class Generator {
 public:
  virtual ~Generator() = default;
  virtual void submit(engine::GenerationRequest request) = 0;
  virtual void cancel(const std::string& id) = 0;
  virtual engine::EngineStats stats() const = 0;
  virtual bool healthy() const = 0;
};

class EngineGenerator final : public Generator {
 public:
  explicit EngineGenerator(engine::Engine& engine) : engine_(engine) {}
  void submit(engine::GenerationRequest request) override { engine_.submit(std::move(request)); }
  void cancel(const std::string& id) override { engine_.cancel(id); }
  engine::EngineStats stats() const override { return engine_.stats(); }
  bool healthy() const override { return engine_.healthy(); }

 private:
  engine::Engine& engine_;
};

}  // namespace quern::server
