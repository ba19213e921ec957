// See in_process_backend.h.
#include "in_process_backend.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "model_options.h"
#include "parallel.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/likelihood_tokens.h"
#include "quern/eval/logit_model.h"
#include "quern/server/chat_engine.h"
#include "quern/server/chat_request.h"

namespace quern::cli {
namespace {

// What the evaluation reads itself (eval/arguments.h), and the harness's names that mean nothing
// here.
constexpr auto kOfEvaluation = std::to_array<std::string_view>(
    {"model",       "pretrained",        "base_url",           "num_concurrent",
     "max_retries", "timeout",           "max_gen_toks",       "seed",
     "eos_string",  "think_end_token",   "verify_certificate", "ca_cert_path",
     "header",      "tokenizer_backend", "tokenizer",          "tokenized_requests",
     "max_length",  "max_images",        "batch_size",         "auth_token",
     "revision",    "trust_remote_code", "add_bos_token"});

class InProcessBackend final : public ChatBackend {
 public:
  InProcessBackend(server::ChatEngineOptions options, const ModelArguments& model,
                   const PromptTokenizer& tokenizer)
      : directory_(options.engine.model_dir),
        moe_backend_(options.engine.moe_backend),
        max_length_(static_cast<std::size_t>(model.max_length)),
        tokenizer_(tokenizer),
        engine_(std::move(options)) {}

  Json identity() override {
    return {{"backend", "quern"}, {"fingerprint", engine_.fingerprint()}};
  }

  Loglikelihood loglikelihood(const std::string& prompt, const std::string& continuation) override {
    const LikelihoodTokens tokens =
        likelihood_tokens(tokenizer_.tokenizer(), prompt, continuation, max_length_ - 1,
                          prompt.empty() ? tokenizer_.prefix_token() : 0);
    const std::lock_guard lock(mutex_);
    if (!scorer_) scorer_.emplace(directory_, LogitModelOptions{.moe_backend = moe_backend_});
    return scorer_->loglikelihood(tokens.tokens, tokens.context);
  }

  std::optional<std::string> complete(const Json& body) override {
    if (!body.contains("messages"))
      throw UsageError("--model quern generates from messages: give --apply_chat_template");
    server::ChatRequest request = server::parse_chat_request(body.dump());
    request.model.clear();  // there is only one
    request.stream = false;
    const server::ChatCompletion completion = engine_.service().complete(request);
    const std::string& content = completion.choices.front().content;
    if (content.empty()) return std::nullopt;
    return content;
  }

 private:
  std::filesystem::path directory_;
  kernels::MoeBackend moe_backend_;
  std::size_t max_length_;
  const PromptTokenizer& tokenizer_;
  std::mutex mutex_;  // scorer_
  std::optional<LogitModel> scorer_;
  server::ChatEngine engine_;
};

}  // namespace

std::unique_ptr<ChatBackend> make_in_process_backend(const Json& model_args,
                                                     const ModelArguments& model,
                                                     const PromptTokenizer& tokenizer) {
  Json arguments = Json::object();
  std::string directory;
  for (const auto& [key, value] : model_args.items()) {
    if (key == "pretrained") {
      directory = value.is_string() ? value.get<std::string>() : value.dump();
    } else if (std::find(kOfEvaluation.begin(), kOfEvaluation.end(), key) == kOfEvaluation.end()) {
      arguments[key] = value;
    }
  }
  if (directory.empty()) throw UsageError("--model quern needs --model_args pretrained=DIR");
  server::ChatEngineOptions options =
      ModelOptions::from_arguments(directory, arguments, launched_rank());
  options.engine.log_stats = false;
  // A score is that of the answer, not of the thinking: as the model card's server is started.
  options.chat.parse_reasoning = true;
  return std::make_unique<InProcessBackend>(std::move(options), model, tokenizer);
}

}  // namespace quern::cli
