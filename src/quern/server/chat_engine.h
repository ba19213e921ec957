// A checkpoint made ready to chat: engine, chat template, sampling defaults and ChatService in one.
// Must never read a command line: options come as the plain structs below.
// Proved by tests/server/server_e2e_test.cc on models/m3-tiny.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "quern/engine/engine.h"
#include "quern/server/chat_service.h"
#include "quern/server/generator.h"

namespace quern::server {

struct ChatEngineOptions {
  engine::EngineOptions engine;
  std::vector<std::string> served_model_names;  // empty: the path of the model as given
  std::string chat_template;               // a file, or the template's text; "": the checkpoint's
  std::string generation_config = "auto";  // auto: the checkpoint's; vllm: none; or a directory
  Json override_generation_config;         // object or null
  // What the service is asked to do; the model's own facts are filled in.
  ChatServiceOptions chat;
  MediaOptions media;
  int max_images = 999;  // of one prompt
  int max_videos = 999;
  // Pictures of all live requests, encoded and as patches.
  std::size_t max_media_bytes = 4ULL << 30;
  // Of those, what may be kept of media that clients name by uuid; at most a half.
  std::size_t mm_processor_cache_bytes = 4'000'000'000;
  int max_queue_len = 4096;  // waiting generations beyond those that run
};

class ChatEngine {
 public:
  // Loads everything; throws Error that names the file or option at fault.
  explicit ChatEngine(ChatEngineOptions options);

  engine::Engine& engine() { return *engine_; }
  ChatService& service() { return *service_; }
  // 32 hex digits: the checkpoint and the options that decide what is answered. Part of cache keys.
  const std::string& fingerprint() const { return fingerprint_; }

 private:
  std::unique_ptr<engine::Engine> engine_;
  std::unique_ptr<EngineGenerator> generator_;
  std::unique_ptr<ChatService> service_;
  std::string fingerprint_;
};

}  // namespace quern::server
