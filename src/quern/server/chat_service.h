// Chat requests without HTTP: request -> prompt -> engine -> parsed answer. The server, the
// terminal chat and the in-process evaluation all go through it, so they give the same answers.
// Must never hold an engine's state; one request's failure ends with that request.
// Proved by tests/server/api_test.cc.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/chat_answer.h"
#include "quern/server/chat_request.h"
#include "quern/server/generator.h"
#include "quern/server/image_inputs.h"
#include "quern/server/media_loader.h"
#include "quern/server/sampling_plan.h"
#include "quern/text/chat_template.h"
#include "quern/text/tokenizer.h"

namespace quern::server {

// Facts of the model and choices of the operator.
struct ChatServiceOptions : SamplingLimits {
  std::vector<std::string> model_names;  // the first one stands in answers; never empty
  bool parse_reasoning = false;          // --reasoning-parser
  bool parse_tools = false;              // --enable-auto-tool-choice and --tool-call-parser
  bool exclude_tools_when_tool_choice_none = false;
  bool trust_request_chat_template = false;
  std::optional<ContentFormat> content_format;  // none: what the template wants
  Json default_chat_template_kwargs;            // object or null
  std::string response_role = "assistant";
  std::shared_ptr<const ImageInputs> images;  // null: requests with images are refused
  std::shared_ptr<MediaLoader> media;         // what brings them in; with `images`
};

// Thread-safe. `tokenizer` and `generator` outlive it.
class ChatService {
 public:
  ChatService(const Tokenizer& tokenizer, ChatTemplate chat_template, Generator& generator,
              ChatServiceOptions options);

  const ChatServiceOptions& options() const { return options_; }
  const Tokenizer& tokenizer() const { return tokenizer_; }
  Generator& generator() { return generator_; }

  MediaLoader* media() const { return options_.media.get(); }

  // The request's images and videos, to be loaded for plan(); their URLs leave the request. Throws
  // ApiError when there are more than allowed.
  std::vector<MediaItem> take_media(ChatRequest& request) const;
  // Renders, tokenizes and checks; takes time in the length of the prompt and for each image.
  // `media`: what take_media() gave, loaded. Throws ApiError.
  ChatPlan plan(const ChatRequest& request, std::vector<MediaItem> media = {}) const;
  // True when the plan needs no grammar, or it is known. No: compile_grammar() it, elsewhere.
  bool has_grammar(GenerationPlan& plan) const;
  // Compiles the form of the plan's answer. Takes seconds at worst; throws ApiError (400).
  void compile_grammar(GenerationPlan& plan) const;
  // Throws ApiError (404) for a model that is not served.
  void check_model(const SamplingRequest& request) const;

  // Starts the generations of the plans. `sink` is called on the engine's thread, in order for each
  // choice (plan number * n + number in the plan; all plans have the same n), the last time with
  // finish_reason set; it must not block. Throws ApiError, and then has started none.
  using Sink = std::function<void(int choice, engine::Output output)>;
  void start(std::span<const GenerationPlan> plans, Sink sink);
  // Ends what still runs of the plans; `sink` is called with kAbort.
  void cancel(std::span<const GenerationPlan> plans);

  // All of the above, media included, waiting for the end; `on_delta` sees each delta. Throws
  // ApiError. Setting
  // `*stop` ends the answer early (finish_reason "abort").
  ChatCompletion complete(const ChatRequest& request,
                          const std::function<void(const ChatDelta&)>& on_delta = {},
                          const std::atomic<bool>* stop = nullptr);

  int in_flight() const { return in_flight_->load(); }

 private:
  // The request's own template, if it brings one.
  std::optional<ChatTemplate> own_template(const ChatRequest& request) const;
  void set_thinking_budget(const ChatRequest& request, ChatPlan& plan) const;
  void set_prompt(const ChatRequest& request, const std::string& text, std::int64_t output_tokens,
                  std::vector<MediaItem> media, ChatPlan& plan) const;
  Json template_kwargs(const ChatRequest& request) const;
  // "auto", "none", "required" or "named".
  std::string tool_choice(const ChatRequest& request) const;
  static void set_form(const ChatRequest& request, const std::string& tool_choice, ChatPlan& plan);
  grammar::GrammarCache& grammars() const;
  engine::GenerationRequest generation(const GenerationPlan& plan, int choice, int number,
                                       const std::shared_ptr<Sink>& sink) const;
  static std::string generation_id(const GenerationPlan& plan, int choice);

  const Tokenizer& tokenizer_;
  ChatTemplate template_;
  Generator& generator_;
  ChatServiceOptions options_;
  // Made at the first use: the trie of a large vocabulary takes time.
  mutable std::once_flag grammars_made_;
  mutable std::unique_ptr<grammar::GrammarCache> grammars_;
  // Shared with the callbacks of generations, which may outlive the service by a moment.
  std::shared_ptr<std::atomic<int>> in_flight_ = std::make_shared<std::atomic<int>>(0);
};

}  // namespace quern::server
