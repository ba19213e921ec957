// See in_process_backend.h.
#include "in_process_backend.h"

#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "model_options.h"
#include "parallel.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/arguments.h"
#include "quern/eval/logit_model.h"
#include "quern/server/chat_engine.h"
#include "quern/server/chat_request.h"
#include "quern/server/completion_request.h"

namespace quern::cli {
namespace {

class InProcessBackend final : public ChatBackend {
 public:
  explicit InProcessBackend(server::ChatEngineOptions options)
      : directory_(options.engine.model_dir),
        scorer_options_{.moe_backend = options.engine.moe_backend,
                        .threads = options.engine.num_threads},
        engine_(std::move(options)) {}

  Json identity() override {
    return {{"backend", "quern"}, {"fingerprint", engine_.fingerprint()}};
  }

  Loglikelihood loglikelihood(const LikelihoodTokens& tokens) override {
    const std::lock_guard lock(mutex_);
    if (!scorer_) scorer_.emplace(directory_, scorer_options_);
    return scorer_->loglikelihood(tokens.tokens, tokens.context);
  }

  std::optional<std::string> complete(const Json& body) override {
    if (!body.contains("messages")) return write_on(body);
    server::ChatRequest request = server::parse_chat_request(body.dump());
    request.model.clear();  // there is only one
    request.stream = false;
    const server::ChatCompletion completion = engine_.service().complete(request);
    const std::string& content = completion.choices.front().content;
    if (content.empty()) return std::nullopt;
    return content;
  }

 private:
  // What the model writes behind a prompt that is text or tokens.
  std::string write_on(const Json& body) {
    server::ChatService& service = engine_.service();
    const server::CompletionPlan plan =
        server::plan_completion(server::parse_completion_request(body.dump()), service.options(),
                                service.options().model_names.front(), service.tokenizer());
    struct Answer {
      std::mutex mutex;
      std::condition_variable ended;
      std::string text;
      std::optional<engine::Output> last;
    };
    const auto answer = std::make_shared<Answer>();
    service.start(plan.prompts, [answer](int, engine::Output output) {
      const std::lock_guard lock(answer->mutex);
      answer->text += output.text;
      if (!output.finish_reason) return;
      answer->last = std::move(output);
      answer->ended.notify_one();
    });
    std::unique_lock lock(answer->mutex);
    answer->ended.wait(lock, [&] { return answer->last.has_value(); });
    if (!answer->last->error.empty()) throw Error("{}", answer->last->error);
    return answer->text;
  }

  std::filesystem::path directory_;
  LogitModelOptions scorer_options_;
  std::mutex mutex_;  // scorer_
  std::optional<LogitModel> scorer_;
  server::ChatEngine engine_;
};

}  // namespace

std::unique_ptr<ChatBackend> make_in_process_backend(const Json& model_args) {
  Json arguments = Json::object();
  std::string directory;
  for (const auto& [key, value] : model_args.items()) {
    if (key == "pretrained") {
      directory = value.is_string() ? value.get<std::string>() : value.dump();
    } else if (!is_evaluation_argument(key)) {
      arguments[key] = value;
    }
  }
  if (directory.empty()) throw UsageError("--model quern needs --model_args pretrained=DIR");
  server::ChatEngineOptions options =
      ModelOptions::from_arguments(directory, arguments, launched_rank());
  options.engine.log_stats = false;
  // A score is that of the answer, not of the thinking: as the model card's server is started.
  options.chat.parse_reasoning = true;
  return std::make_unique<InProcessBackend>(std::move(options));
}

}  // namespace quern::cli
