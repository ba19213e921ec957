// See chat_service.h.
#include "quern/server/chat_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <utility>

#include "quern/server/api_error.h"
#include "quern/server/chat_messages.h"
#include "quern/server/media_parts.h"
#include "quern/server/structured_output.h"

namespace quern::server {
namespace {

// The text of the last message, which the answer continues.
std::string last_content(const Json& messages) {
  std::string text;
  if (messages.empty()) return text;
  const Json& content = messages.back()["content"];
  if (content.is_string()) return content.get<std::string>();
  if (content.is_array()) {
    for (const Json& part : content) {
      if (part.contains("text")) text += part["text"].get_ref<const std::string&>();
    }
  }
  return text;
}

// The tools for the parser and the grammar, which walk through their schemas again and again.
std::shared_ptr<const Json> parsed_tools(const Json& tools) {
  constexpr std::size_t kMaxTools = 4096;
  constexpr std::size_t kMaxBytes = 4 << 20;
  if (tools.size() > kMaxTools) {
    throw ApiError(
        400, fmt::format("`tools` can have at most {} tools, got {}.", kMaxTools, tools.size()),
        "tools");
  }
  if (const std::size_t bytes = dump(tools).size(); bytes > kMaxBytes) {
    throw ApiError(400, fmt::format("`tools` can have at most {} bytes, got {}.", kMaxBytes, bytes),
                   "tools");
  }
  return std::make_shared<const Json>(grammar::with_references_resolved(tools));
}

// What a blocked caller waits on.
struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<std::pair<int, engine::Output>> outputs;
};

}  // namespace

ChatService::ChatService(const Tokenizer& tokenizer, ChatTemplate chat_template,
                         Generator& generator, ChatServiceOptions options)
    : tokenizer_(tokenizer),
      template_(std::move(chat_template)),
      generator_(generator),
      options_(std::move(options)) {
  QUERN_CHECK(!options_.model_names.empty() && options_.max_model_len > 0);
}

std::vector<MediaItem> ChatService::take_media(ChatRequest& request) const {
  const auto check = [&](PartKind kind, const char* name, int limit) {
    const int count = count_parts(request.messages, kind);
    if (count <= limit) return;
    throw parameter_error(
        fmt::format("At most {} {}(s) may be provided in one prompt.{}", limit, name,
                    limit > 0 ? " Set `--limit-mm-per-prompt` to increase this limit." : ""),
        name, count);
  };
  const ImageInputOptions* limits = options_.images ? &options_.images->options() : nullptr;
  check(PartKind::kVideo, "video", limits != nullptr ? limits->max_videos : 0);
  check(PartKind::kImage, "image", limits != nullptr ? limits->max_images : 0);
  if (!vision::video_supported() && count_parts(request.messages, PartKind::kVideo) > 0) {
    throw ApiError(
        400, "Videos are not supported: the server was built without FFmpeg's libraries.", "video");
  }
  return server::take_media(request.messages);
}

void ChatService::set_thinking_budget(const ChatRequest& request, ChatPlan& plan) const {
  if (!request.thinking_token_budget) return;
  const std::int64_t budget = *request.thinking_token_budget;
  if (budget < 0) {
    throw parameter_error(
        fmt::format("thinking_token_budget must be non-negative, got {}.", budget),
        "thinking_token_budget", budget);
  }
  if (!options_.parse_reasoning) {
    throw parameter_error(
        "`thinking_token_budget` needs a server with --reasoning-parser: nobody else knows where "
        "thinking begins and ends.",
        "thinking_token_budget", budget);
  }
  plan.sampling.thinking_token_budget =
      static_cast<int>(std::min<std::int64_t>(budget, options_.max_model_len));
}

// Tokens, with placeholders expanded for the images.
void ChatService::set_prompt(const ChatRequest& request, const std::string& text,
                             std::int64_t output_tokens, std::vector<MediaItem> media,
                             ChatPlan& plan) const {
  check_text_length(request, options_, tokenizer_, output_tokens, text);
  try {
    plan.prompt = tokenizer_.encode(text);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  if (media.empty()) return;
  plan.images = options_.images->expand(
      plan.prompt, options_.images->prepare(std::move(media), request.cache_salt));
}

ChatPlan ChatService::plan(const ChatRequest& request, std::vector<MediaItem> media) const {
  check_model(request);
  check_generations(request, 1, options_);
  const auto asked =
      request.max_completion_tokens ? request.max_completion_tokens : request.max_tokens;
  const std::int64_t wanted = wanted_tokens(asked);
  ChatPlan plan;
  plan.id = "chatcmpl-" + (request.request_id.empty() ? random_id() : request.request_id);
  plan.model = options_.model_names.front();
  plan.role = options_.response_role;

  const std::string choice = tool_choice(request);
  const Json kwargs = template_kwargs(request);
  const bool render_tools = request.tools.is_array() &&
                            !(choice == "none" && options_.exclude_tools_when_tool_choice_none);
  const int parts = count_parts(request.messages, PartKind::kImage) +
                    count_parts(request.messages, PartKind::kVideo);
  if (static_cast<std::size_t>(parts) != media.size()) {
    throw ApiError(501, "Images are not supported here.");
  }
  MediaPlaceholders placeholders;
  if (options_.images) {
    placeholders = {options_.images->options().placeholder,
                    options_.images->options().video_placeholder};
  }
  const std::optional<ChatTemplate> own = own_template(request);
  const ChatTemplate& chat_template = own ? *own : template_;
  const Json messages = template_messages(
      request.messages, options_.content_format.value_or(chat_template.content_format()),
      placeholders);
  std::string prompt;
  try {
    prompt = chat_template.render(messages, render_tools ? request.tools : Json(nullptr),
                                  {request.add_generation_prompt, request.continue_final_message},
                                  kwargs);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  set_prompt(request, prompt, wanted, std::move(media), plan);
  if (request.echo && request.continue_final_message) plan.echo = last_content(messages);

  const std::size_t whole = plan.prompt.size();
  truncate_prompt(request, options_, wanted, plan.prompt);
  if (!plan.images.empty() && plan.prompt.size() != whole) {
    throw ApiError(400, "A prompt with images cannot be truncated.", "truncate_prompt_tokens");
  }
  std::optional<std::int64_t> logprobs;
  if (request.logprobs) logprobs = request.top_logprobs;
  plan_sampling(request, options_, asked, logprobs, tokenizer_, plan);
  check_ids(count_ids(plan));
  set_thinking_budget(request, plan);

  const bool starts_inside = starts_in_reasoning(kwargs, prompt);
  plan.parser = {
      .parse_reasoning = options_.parse_reasoning,
      .starts_in_reasoning = starts_inside,
      .parse_tools = options_.parse_tools && request.tools.is_array() && choice != "none",
      // A stream shows arguments while they grow; a whole answer waits for what they become.
      .arguments = request.stream ? ArgumentStreaming::kEager : ArgumentStreaming::kWhole};
  if (options_.parse_reasoning) {
    plan.reasoning = {std::string(kThinkStart), std::string(kThinkEnd), starts_inside,
                      prompt.ends_with(kThinkEnd)};
    plan.think_start_id = tokenizer_.token_id(kThinkStart);
    plan.think_end_id = tokenizer_.token_id(kThinkEnd);
  }
  if (plan.parser.parse_tools) plan.tools = parsed_tools(request.tools);
  set_form(request, choice, plan);
  plan.named_tool = choice == "named";
  plan.parallel_tool_calls = request.parallel_tool_calls;
  plan.include_reasoning = request.include_reasoning;
  return plan;
}

void ChatService::set_form(const ChatRequest& request, const std::string& tool_choice,
                           ChatPlan& plan) {
  plan.form = request.structured_output;
  plan.form_field = "structured_outputs";
  if (plan.form || !plan.tools) return;
  if (auto calls =
          tool_output(*plan.tools, tool_choice, request.tool_choice, request.parallel_tool_calls)) {
    plan.form = std::make_shared<const grammar::StructuredOutput>(std::move(*calls));
    plan.form_field = "tools";
  }
}

grammar::GrammarCache& ChatService::grammars() const {
  std::call_once(grammars_made_, [this] {
    grammars_ = std::make_unique<grammar::GrammarCache>(
        std::make_shared<const grammar::TokenTrie>(grammar::TokenTrie::of(tokenizer_)));
  });
  return *grammars_;
}

bool ChatService::has_grammar(GenerationPlan& plan) const {
  if (plan.form && !plan.grammar) plan.grammar = grammars().known(*plan.form);
  return !plan.form || plan.grammar;
}

void ChatService::compile_grammar(GenerationPlan& plan) const {
  try {
    plan.grammar = grammars().get(*plan.form);
  } catch (const Error& error) {
    throw ApiError(400, error.what(), plan.form_field);
  }
}

void ChatService::check_model(const SamplingRequest& request) const {
  const auto& names = options_.model_names;
  if (request.model.empty() ||
      std::find(names.begin(), names.end(), request.model) != names.end()) {
    return;
  }
  throw ApiError(404, fmt::format("The model `{}` does not exist.", request.model), "model");
}

// A template may take as much time and output as its bounds allow, so it needs the operator's word.
std::optional<ChatTemplate> ChatService::own_template(const ChatRequest& request) const {
  std::string source = request.chat_template;
  if (source.empty() && request.chat_template_kwargs.is_object()) {
    const auto inside = request.chat_template_kwargs.find("chat_template");
    if (inside != request.chat_template_kwargs.end() && inside->is_string()) {
      source = inside->get<std::string>();
    }
  }
  if (source.empty()) return {};
  if (!options_.trust_request_chat_template) {
    throw ApiError(400,
                   "Chat template is passed with request, but --trust-request-chat-template "
                   "is not set. Refused request with untrusted chat template.",
                   "chat_template");
  }
  try {
    return template_.with_source(std::move(source), "chat_template");
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "chat_template");
  }
}

Json ChatService::template_kwargs(const ChatRequest& request) const {
  Json kwargs = Json::object();
  if (request.documents.is_array()) kwargs["documents"] = request.documents;
  const auto merge = [&kwargs](const Json& from) {
    if (!from.is_object()) return;
    for (const auto& [key, value] : from.items()) kwargs[key] = value;
  };
  merge(options_.default_chat_template_kwargs);
  if (!request.reasoning_effort.empty()) {
    kwargs["reasoning_effort"] = request.reasoning_effort;
    kwargs["enable_thinking"] = request.reasoning_effort != "none";
  }
  merge(request.chat_template_kwargs);
  return kwargs;
}

std::string ChatService::tool_choice(const ChatRequest& request) const {
  std::string choice = request.tools.is_array() ? "auto" : "none";
  if (request.tool_choice.is_string()) choice = request.tool_choice.get<std::string>();
  if (request.tool_choice.is_object()) choice = "named";
  if (choice == "none" || options_.parse_tools) {
    if (choice != "named") return choice;
    const Json& wanted = request.tool_choice["function"]["name"];
    for (const Json& tool : request.tools) {
      if (tool["function"]["name"] == wanted) return choice;
    }
    throw ApiError(
        400, "The tool specified in `tool_choice` does not match any of the specified `tools`",
        "tool_choice");
  }
  if (choice == "auto") {
    throw ApiError(400,
                   "\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser "
                   "to be set");
  }
  throw ApiError(400,
                 fmt::format("tool_choice=\"{}\" requires --tool-call-parser to be set", choice));
}

std::string ChatService::generation_id(const GenerationPlan& plan, int choice) {
  return fmt::format("{}#{}-{}", plan.id, plan.serial, choice);
}

void ChatService::start(std::span<const GenerationPlan> plans, Sink sink) {
  int total = 0;
  for (const GenerationPlan& plan : plans) total += plan.n;
  if (in_flight_->fetch_add(total) + total > options_.max_in_flight) {
    in_flight_->fetch_sub(total);
    throw ApiError(429, "The server's queue is full. Please try again later.");
  }
  const auto shared_sink = std::make_shared<Sink>(std::move(sink));
  int begun = 0;
  for (const GenerationPlan& plan : plans) {
    for (int choice = 0; choice < plan.n; ++choice, ++begun) {
      try {
        generator_.submit(generation(plan, choice, begun, shared_sink));
      } catch (const Error& error) {
        in_flight_->fetch_sub(total - begun);
        cancel(plans);
        if (const auto* invalid = dynamic_cast<const engine::InvalidRequest*>(&error)) {
          throw ApiError(400, invalid->what(), invalid->parameter());
        }
        throw ApiError(503, error.what());
      }
    }
  }
}

// `number` of the choice among those of all plans.
engine::GenerationRequest ChatService::generation(const GenerationPlan& plan, int choice,
                                                  int number,
                                                  const std::shared_ptr<Sink>& sink) const {
  engine::GenerationRequest request;
  request.id = generation_id(plan, choice);
  request.prompt = plan.prompt;
  request.images = plan.images;
  request.sampling = plan.sampling;
  if (std::optional<std::int64_t>& seed = request.sampling.seed) {  // wraps at the largest
    *seed = static_cast<std::int64_t>(static_cast<std::uint64_t>(*seed) +
                                      static_cast<std::uint64_t>(choice));
  }
  request.reasoning = plan.reasoning;
  request.grammar = plan.grammar;
  request.cache_salt = plan.cache_salt;
  request.priority = plan.priority;
  request.on_output = [in_flight = in_flight_, sink, number](engine::Output output) {
    if (output.finish_reason) in_flight->fetch_sub(1);
    (*sink)(number, std::move(output));
  };
  return request;
}

void ChatService::cancel(std::span<const GenerationPlan> plans) {
  for (const GenerationPlan& plan : plans) {
    for (int choice = 0; choice < plan.n; ++choice) generator_.cancel(generation_id(plan, choice));
  }
}

ChatCompletion ChatService::complete(const ChatRequest& request,
                                     const std::function<void(const ChatDelta&)>& on_delta,
                                     const std::atomic<bool>* stop) {
  ChatRequest own = request;
  std::vector<MediaItem> media = take_media(own);
  if (!media.empty()) put_media(options_.media->load(take_urls(media)), media);
  ChatPlan plan = this->plan(own, std::move(media));
  if (!has_grammar(plan)) compile_grammar(plan);
  const auto inbox = std::make_shared<Inbox>();
  start(plan.alone(), [inbox](int choice, engine::Output output) {
    {
      const std::lock_guard lock(inbox->mutex);
      inbox->outputs.emplace_back(choice, std::move(output));
    }
    inbox->arrived.notify_one();
  });
  ChatAnswer answer(plan);
  ChatCompletion completion;
  bool cancelled = false;
  try {
    while (!answer.finished()) {
      std::vector<std::pair<int, engine::Output>> outputs;
      {
        std::unique_lock lock(inbox->mutex);
        const auto ready = [&] { return !inbox->outputs.empty(); };
        if (stop == nullptr) {
          inbox->arrived.wait(lock, ready);
        } else {  // the flag may be set by a signal handler, which can wake nobody
          inbox->arrived.wait_for(lock, std::chrono::milliseconds(50), ready);
        }
        outputs.swap(inbox->outputs);
      }
      if (stop != nullptr && *stop && !std::exchange(cancelled, true)) cancel(plan.alone());
      for (auto& [choice, output] : outputs) {
        const auto delta = answer.feed(choice, std::move(output));
        if (!delta) continue;
        if (on_delta) on_delta(*delta);
        completion.add(*delta);
      }
    }
  } catch (...) {
    cancel(plan.alone());
    throw;
  }
  completion.usage = answer.usage();
  completion.prompt_logprobs = answer.prompt_logprobs();
  return completion;
}

}  // namespace quern::server
