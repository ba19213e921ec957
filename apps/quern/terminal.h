// What generate and chat share: sampling options of the command line, and printing an answer as it
// comes. Must never write anything but the answer to stdout. Proved by tests/apps/program_test.cc.
#pragma once

#include <atomic>
#include <optional>
#include <string>
#include <vector>

#include "options.h"
#include "quern/base/json.h"
#include "quern/server/chat_engine.h"
#include "quern/server/chat_request.h"
#include "quern/server/chat_service.h"

namespace quern::cli {

class SamplingOptions {
 public:
  explicit SamplingOptions(CLI::App& app);
  void apply(server::ChatRequest& request) const;

 private:
  std::optional<std::int64_t> max_tokens_;
  std::optional<double> temperature_;
  std::optional<double> top_p_;
  std::optional<std::int64_t> top_k_;
  std::optional<double> min_p_;
  std::optional<double> repetition_penalty_;
  std::optional<std::int64_t> request_seed_;
  std::vector<std::string> stop_;
};

// A user's message: pictures (files, or URLs of http, https or data), then the text. Throws Error
// that names a file which cannot be read.
Json user_message(const std::string& text, const std::vector<std::string>& images);
// What user_message() needs: this process may read what its user may read.
void allow_local_images(server::ChatEngineOptions& options);

// Streams one answer: reasoning dimmed on a terminal (and to stdout only there), content, then tool
// calls as JSON lines. Ends early when `stop` becomes true.
server::ChatCompletion print_answer(server::ChatService& service,
                                    const server::ChatRequest& request,
                                    const std::atomic<bool>* stop = nullptr);

}  // namespace quern::cli
