// The backends "local-chat-completions" and "local-completions": an OpenAI-compatible server over
// HTTP or HTTPS.
// Must never hang: every attempt has a deadline, every body a limit.
// Proved by tests/eval/http_chat_backend_test.cc against a misbehaving server.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "quern/eval/arguments.h"
#include "quern/eval/chat_backend.h"

namespace quern {

struct HttpBackendOptions {
  std::string url;
  std::string model;
  int max_attempts = 3;
  std::chrono::milliseconds timeout{300'000};  // one attempt, connecting included
  std::vector<std::pair<std::string, std::string>> headers;
  bool verify_certificate = true;
  std::string ca_cert_path;
  std::string think_end_token;
  // Wait before attempt `made` + 1; the harness's rule unless a test shortens it.
  std::chrono::milliseconds (*retry_wait)(int made) = nullptr;
};

// The harness's waits: 1, 1, 2, 4, 8, 10, 10, ... seconds (min(10, max(1, 0.5 * 2^(made - 1)))).
std::chrono::milliseconds harness_retry_wait(int made);

// `api_key` is sent as a bearer token unless the arguments give their own header.
HttpBackendOptions http_backend_options(const ModelArguments& model, const std::string& api_key);

std::unique_ptr<ChatBackend> make_http_chat_backend(const HttpBackendOptions& options);
// Also tells likelihoods, by `echo` and `logprobs` of /v1/completions.
std::unique_ptr<ChatBackend> make_http_completions_backend(const HttpBackendOptions& options,
                                                           const ModelArguments& model);

}  // namespace quern
