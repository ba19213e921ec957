// See http_chat_backend.h. Retries and waits: lm-evaluation-harness lm_eval/models/api_models.py.
#include "quern/eval/http_chat_backend.h"

#include <algorithm>
#include <mutex>
#include <thread>
#include <type_traits>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/http_connection.h"
#include "quern/eval/python_text.h"
#include "quern/eval/request.h"

namespace quern {
namespace {

constexpr std::size_t kMaxShownBytes = 300;  // of a server's error body
constexpr std::chrono::milliseconds kIdentityTimeout{10'000};

// Python's reader keeps the last of two equal keys.
constexpr JsonLimits kResponseLimits{.max_depth = 64, .reject_duplicate_keys = false};

std::string shortened(const std::string& text) {
  std::string line = text.substr(0, kMaxShownBytes);
  std::replace_if(
      line.begin(), line.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  return line + (text.size() > kMaxShownBytes ? "..." : "");
}

// ".../chat/completions" or ".../completions" -> ".../models".
std::string models_target(const std::string& target) {
  const std::string path = target.substr(0, target.find('?'));
  for (const std::string_view suffix : {"/chat/completions", "/completions"}) {
    if (path.ends_with(suffix)) return path.substr(0, path.size() - suffix.size()) + "/models";
  }
  return "/v1/models";
}

class HttpChatBackend : public ChatBackend {
 public:
  explicit HttpChatBackend(HttpBackendOptions options)
      : options_(std::move(options)), url_(HttpUrl::parse(options_.url)) {
    if (options_.retry_wait == nullptr) options_.retry_wait = harness_retry_wait;
    idle_.push_back(
        new_connection());  // a wrong certificate file is told before the first question
  }

  Json identity() override {
    Json identity{{"base_url", options_.url}, {"model", options_.model}};
    // Answers are kept without their thinking: where it ends decides what is kept.
    if (!options_.think_end_token.empty()) identity["think_end_token"] = options_.think_end_token;
    try {
      identity["server"] = server_fingerprint();
    } catch (const Error& error) {
      spdlog::warn("no fingerprint of the checkpoint from {}: {}", models_target(url_.target),
                   error.what());
      identity["server"] = nullptr;
    }
    return identity;
  }

  std::optional<std::string> complete(const Json& request) override {
    return retried(request, [&](const Json& response) {
      auto answer = answer_of_response(response);
      if (answer) answer = drop_thinking(*std::move(answer), options_.think_end_token);
      return answer;
    });
  }

 protected:
  // Posts `request` until `read` accepts the response; at most max_attempts times.
  template <typename Read>
  std::invoke_result_t<const Read&, const Json&> retried(const Json& request, const Read& read) {
    const std::string body = python_json(request);
    for (int made = 1;; ++made) {
      try {
        return read(attempt(body));
      } catch (const Error& error) {
        if (made >= options_.max_attempts)
          throw Error("{} (attempt {} of {})", error.what(), made, options_.max_attempts);
        spdlog::warn("request failed, attempt {} of {}: {}", made, options_.max_attempts,
                     error.what());
      }
      std::this_thread::sleep_for(options_.retry_wait(made));
    }
  }

 private:
  std::unique_ptr<HttpConnection> new_connection() const {
    return std::make_unique<HttpConnection>(
        url_, HttpTls{options_.verify_certificate, options_.ca_cert_path});
  }

  // One connection per request in flight, kept for the next one.
  HttpResponse exchange(const std::string& method, const std::string& target,
                        const std::string& body, std::chrono::milliseconds timeout) {
    std::unique_ptr<HttpConnection> connection;
    {
      const std::lock_guard lock(mutex_);
      if (!idle_.empty()) {
        connection = std::move(idle_.back());
        idle_.pop_back();
      }
    }
    if (!connection) connection = new_connection();
    auto headers = options_.headers;
    headers.emplace_back("Host", url_.host_header());
    headers.emplace_back("Accept", "*/*");
    headers.emplace_back("User-Agent", "quern");
    if (method == "POST") headers.emplace_back("Content-Type", "application/json");
    HttpResponse response = connection->request(method, target, body, headers, timeout);
    const std::lock_guard lock(mutex_);
    idle_.push_back(std::move(connection));
    return response;
  }

  Json attempt(const std::string& body) {
    const HttpResponse response = exchange("POST", url_.target, body, options_.timeout);
    if (response.status < 200 || response.status >= 300) {
      throw Error("{}: HTTP status {}: {}", options_.url, response.status,
                  shortened(response.body));
    }
    return parse_json(response.body, options_.url, kResponseLimits);
  }

  // `fingerprint` of our model's entry in GET /v1/models: quern's servers hash checkpoint and
  // options into it. Null on servers that have none.
  Json server_fingerprint() {
    const std::string target = models_target(url_.target);
    const HttpResponse response =
        exchange("GET", target, "", std::min(options_.timeout, kIdentityTimeout));
    if (response.status != 200) throw Error("HTTP status {}", response.status);
    const Json models = parse_json(response.body, target, kResponseLimits);
    if (!models.is_object() || !models.contains("data") || !models["data"].is_array())
      return nullptr;
    for (const Json& entry : models["data"]) {
      if (!entry.is_object() || !entry.contains("id") || entry["id"] != options_.model) continue;
      return entry.contains("fingerprint") ? entry["fingerprint"] : Json(nullptr);
    }
    return nullptr;
  }

  HttpBackendOptions options_;
  HttpUrl url_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<HttpConnection>> idle_;
};

class HttpCompletionsBackend final : public HttpChatBackend {
 public:
  HttpCompletionsBackend(HttpBackendOptions options, const ModelArguments& model)
      : HttpChatBackend(std::move(options)), model_(model) {}

  Loglikelihood loglikelihood(const LikelihoodTokens& tokens) override {
    return retried(make_likelihood_request(tokens, model_),
                   [&](const Json& response) { return likelihood_of_response(response, tokens); });
  }

 private:
  ModelArguments model_;
};

}  // namespace

std::chrono::milliseconds harness_retry_wait(int made) {
  long half_seconds = 1;
  for (int i = 1; i < made && half_seconds < 20; ++i) half_seconds *= 2;
  return std::chrono::milliseconds(std::clamp(500 * half_seconds, 1000L, 10'000L));
}

HttpBackendOptions http_backend_options(const ModelArguments& model, const std::string& api_key) {
  HttpBackendOptions options;
  options.url = model.base_url;
  options.model = model.model;
  options.max_attempts = model.max_retries;
  options.timeout =
      std::chrono::milliseconds(static_cast<std::int64_t>(model.timeout_seconds * 1000));
  options.headers = model.header.value_or(
      std::vector<std::pair<std::string, std::string>>{{"Authorization", "Bearer " + api_key}});
  options.verify_certificate = model.verify_certificate;
  options.ca_cert_path = model.ca_cert_path.value_or("");
  options.think_end_token = model.think_end_token.value_or("");
  return options;
}

std::unique_ptr<ChatBackend> make_http_chat_backend(const HttpBackendOptions& options) {
  return std::make_unique<HttpChatBackend>(options);
}

std::unique_ptr<ChatBackend> make_http_completions_backend(const HttpBackendOptions& options,
                                                           const ModelArguments& model) {
  return std::make_unique<HttpCompletionsBackend>(options, model);
}

}  // namespace quern
