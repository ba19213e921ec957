// See chat_service.h.
#include "quern/server/chat_service.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <random>
#include <utility>

#include "quern/server/api_error.h"
#include "quern/server/chat_messages.h"
#include "quern/server/media_parts.h"

namespace quern::server {
namespace {

constexpr int kMaxChoices = 16384;     // vLLM's bound of n
constexpr double kGreedyBelow = 1e-5;  // vLLM sampling_params.py, _SAMPLING_EPS
constexpr double kLowestTemperature = 0.01;
constexpr float kMaxLogitBias = 100.0F;

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// The value in the engine's type; what does not fit stays out of every valid range.
int to_int(std::int64_t value) {
  return static_cast<int>(std::clamp<std::int64_t>(value, std::numeric_limits<int>::min(),
                                                   std::numeric_limits<int>::max()));
}

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

int choices(const ChatRequest& request, const engine::SamplingParams& sampling) {
  if (request.n < 1) {
    throw ApiError(400, fmt::format("n must be at least 1, got {}.", request.n), "n");
  }
  if (request.n > kMaxChoices) {
    throw ApiError(400, fmt::format("n must be at most {}, got {}.", kMaxChoices, request.n), "n");
  }
  if (request.n > 1 && sampling.temperature < kGreedyBelow) {
    throw ApiError(400, fmt::format("n must be 1 when using greedy sampling, got {}.", request.n));
  }
  return static_cast<int>(request.n);
}

// What a blocked caller waits on.
struct Inbox {
  std::mutex mutex;
  std::condition_variable arrived;
  std::vector<std::pair<int, engine::Output>> outputs;
};

}  // namespace

std::string random_id() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  const std::uint64_t high = random();
  return fmt::format("{:016x}{:016x}", high, random());
}

ChatService::ChatService(const Tokenizer& tokenizer, ChatTemplate chat_template,
                         Generator& generator, ChatServiceOptions options)
    : tokenizer_(tokenizer),
      template_(std::move(chat_template)),
      generator_(generator),
      options_(std::move(options)) {
  QUERN_CHECK(!options_.model_names.empty() && options_.max_model_len > 0);
}

std::vector<std::string> ChatService::take_media_urls(ChatRequest& request) const {
  const auto check = [&](PartKind kind, const char* name, int limit) {
    const int count = count_parts(request.messages, kind);
    if (count <= limit) return;
    throw parameter_error(
        fmt::format("At most {} {}(s) may be provided in one prompt.{}", limit, name,
                    limit > 0 ? " Set `--limit-mm-per-prompt` to increase this limit." : ""),
        name, count);
  };
  check(PartKind::kVideo, "video", 0);
  check(PartKind::kImage, "image", options_.images ? options_.images->options().max_images : 0);
  return take_image_urls(request.messages);
}

// Tokens, with placeholders expanded for the images.
void ChatService::set_prompt(const std::string& text, std::vector<Media> media,
                             ChatPlan& plan) const {
  try {
    plan.prompt = tokenizer_.encode(text);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  if (media.empty()) return;
  plan.images = options_.images->prepare(std::move(media));
  options_.images->expand(plan.prompt, plan.images);
}

ChatPlan ChatService::plan(const ChatRequest& request, std::vector<Media> media) const {
  check_model(request);
  ChatPlan plan;
  plan.id = "chatcmpl-" + (request.request_id.empty() ? random_id() : request.request_id);
  plan.model = options_.model_names.front();
  plan.role = options_.response_role;
  plan.created = unix_time();

  const std::string choice = tool_choice(request);
  const Json kwargs = template_kwargs(request);
  const bool render_tools = request.tools.is_array() &&
                            !(choice == "none" && options_.exclude_tools_when_tool_choice_none);
  if (static_cast<std::size_t>(count_parts(request.messages, PartKind::kImage)) != media.size()) {
    throw ApiError(501, "Images are not supported here.");
  }
  const Json messages =
      template_messages(request.messages, template_.content_format(),
                        options_.images ? options_.images->options().placeholder : "");
  std::string prompt;
  try {
    prompt =
        template_.render(messages, render_tools ? request.tools : Json(nullptr),
                         {request.add_generation_prompt, request.continue_final_message}, kwargs);
  } catch (const Error& error) {
    throw ApiError(400, error.what());
  }
  set_prompt(prompt, std::move(media), plan);
  if (request.echo && request.continue_final_message) plan.echo = last_content(messages);

  plan.sampling = sampling(request);
  plan.sampling.max_tokens = max_tokens(request, static_cast<int>(plan.prompt.size()));
  plan.n = choices(request, plan.sampling);
  try {
    plan.sampling.validate(options_.vocab_size, options_.max_logprobs);
  } catch (const engine::InvalidRequest& error) {
    throw ApiError(400, error.what(), error.parameter());
  }

  const bool starts_inside = starts_in_reasoning(kwargs, prompt);
  plan.parser = {
      .parse_reasoning = options_.parse_reasoning,
      .starts_in_reasoning = starts_inside,
      .parse_tools = options_.parse_tools && request.tools.is_array() && choice != "none"};
  if (options_.parse_reasoning) {
    plan.reasoning = {std::string(kThinkStart), std::string(kThinkEnd), starts_inside};
  }
  plan.cache_salt = request.cache_salt;
  plan.tools = request.tools;
  plan.named_tool = choice == "named";
  plan.parallel_tool_calls = request.parallel_tool_calls;
  plan.include_reasoning = request.include_reasoning;
  plan.logprobs = request.logprobs;
  plan.return_token_ids = request.return_token_ids;
  plan.tokens_as_ids = request.return_tokens_as_token_ids;
  plan.stream = request.stream;
  plan.include_usage = request.include_usage;
  plan.continuous_usage = request.continuous_usage_stats;
  return plan;
}

void ChatService::check_model(const ChatRequest& request) const {
  const auto& names = options_.model_names;
  if (request.model.empty() ||
      std::find(names.begin(), names.end(), request.model) != names.end()) {
    return;
  }
  throw ApiError(404, fmt::format("The model `{}` does not exist.", request.model), "model");
}

Json ChatService::template_kwargs(const ChatRequest& request) const {
  if (!request.chat_template.empty()) {
    throw ApiError(400,
                   options_.trust_request_chat_template
                       ? "A chat template in the request is not supported by this build yet."
                       : "Chat template is passed with request, but --trust-request-chat-template "
                         "is not set. Refused request with untrusted chat template.",
                   "chat_template");
  }
  Json kwargs = Json::object();
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

engine::SamplingParams ChatService::sampling(const ChatRequest& request) const {
  const GenerationConfig& defaults = options_.defaults;
  engine::SamplingParams params;
  const double temperature = request.temperature.value_or(defaults.temperature.value_or(1.0));
  params.temperature = static_cast<float>(
      temperature >= kGreedyBelow ? std::max(temperature, kLowestTemperature) : temperature);
  params.top_p = static_cast<float>(request.top_p.value_or(defaults.top_p.value_or(1.0)));
  params.top_k = to_int(request.top_k.value_or(defaults.top_k.value_or(0)));
  params.min_p = static_cast<float>(request.min_p.value_or(defaults.min_p.value_or(0.0)));
  params.repetition_penalty = static_cast<float>(
      request.repetition_penalty.value_or(defaults.repetition_penalty.value_or(1.0)));
  params.presence_penalty = static_cast<float>(request.presence_penalty);
  params.frequency_penalty = static_cast<float>(request.frequency_penalty);
  if (request.seed && *request.seed != -1) params.seed = request.seed;
  params.min_tokens = to_int(request.min_tokens);
  params.stop = request.stop;
  for (const std::int64_t id : request.stop_token_ids) params.stop_token_ids.push_back(to_int(id));
  for (const auto& [id, bias] : request.logit_bias) {
    params.logit_bias.emplace_back(
        to_int(id), std::clamp(static_cast<float>(bias), -kMaxLogitBias, kMaxLogitBias));
  }
  params.ignore_eos = request.ignore_eos;
  params.include_stop_str_in_output = request.include_stop_str_in_output;
  params.skip_special_tokens = request.skip_special_tokens;
  params.stop_in_reasoning = options_.stop_in_reasoning;
  if (request.logprobs) params.logprobs = to_int(request.top_logprobs);
  return params;
}

// A request that asks for more than fits is an error; one that does not say gets what is left.
int ChatService::max_tokens(const ChatRequest& request, int prompt_tokens) const {
  const std::int64_t limit = options_.max_model_len;
  const auto asked =
      request.max_completion_tokens ? request.max_completion_tokens : request.max_tokens;
  if (asked && *asked < 1) {
    throw parameter_error(fmt::format("max_tokens must be at least 1, got {}.", *asked),
                          "max_tokens", *asked);
  }
  const std::int64_t wanted = asked.value_or(1);
  if (prompt_tokens > limit - wanted) {
    // vLLM stops tokenizing one token behind the most that fits, and says that number.
    const std::int64_t at_least = std::max<std::int64_t>(0, limit - wanted) + 1;
    throw ApiError(
        400,
        fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                    "output tokens and your prompt contains at least {} input tokens, for a total "
                    "of at least {} tokens. Please reduce the length of the input prompt or the "
                    "number of requested output tokens. (parameter=input_tokens, value={})",
                    limit, wanted, at_least, at_least + wanted, at_least),
        "input_tokens");
  }
  std::int64_t result = asked.value_or(limit - prompt_tokens);
  if (options_.defaults.max_new_tokens)
    result = std::min(result, *options_.defaults.max_new_tokens);
  return to_int(result);
}

std::string ChatService::generation_id(const ChatPlan& plan, int choice) {
  return plan.n == 1 ? plan.id : fmt::format("{}-{}", plan.id, choice);
}

void ChatService::start(const ChatPlan& plan, Sink sink) {
  if (in_flight_->fetch_add(plan.n) + plan.n > options_.max_in_flight) {
    in_flight_->fetch_sub(plan.n);
    throw ApiError(429, "The server's queue is full. Please try again later.");
  }
  const auto shared_sink = std::make_shared<Sink>(std::move(sink));
  for (int choice = 0; choice < plan.n; ++choice) {
    engine::GenerationRequest request;
    request.id = generation_id(plan, choice);
    request.prompt = plan.prompt;
    request.images = plan.images;
    request.sampling = plan.sampling;
    if (request.sampling.seed) *request.sampling.seed += choice;
    request.reasoning = plan.reasoning;
    request.cache_salt = plan.cache_salt;
    request.on_output = [in_flight = in_flight_, shared_sink, choice](engine::Output output) {
      if (output.finish_reason) in_flight->fetch_sub(1);
      (*shared_sink)(choice, std::move(output));
    };
    try {
      generator_.submit(std::move(request));
    } catch (const Error& error) {
      in_flight_->fetch_sub(plan.n - choice);
      for (int begun = 0; begun < choice; ++begun) generator_.cancel(generation_id(plan, begun));
      if (const auto* invalid = dynamic_cast<const engine::InvalidRequest*>(&error)) {
        throw ApiError(400, invalid->what(), invalid->parameter());
      }
      throw ApiError(503, error.what());
    }
  }
}

void ChatService::cancel(const ChatPlan& plan) {
  for (int choice = 0; choice < plan.n; ++choice) generator_.cancel(generation_id(plan, choice));
}

ChatCompletion ChatService::complete(const ChatRequest& request,
                                     const std::function<void(const ChatDelta&)>& on_delta,
                                     const std::atomic<bool>* stop) {
  ChatRequest own = request;
  std::vector<std::string> urls = take_media_urls(own);
  std::vector<Media> media;
  if (!urls.empty()) media = options_.media->load(std::move(urls));
  const ChatPlan plan = this->plan(own, std::move(media));
  const auto inbox = std::make_shared<Inbox>();
  start(plan, [inbox](int choice, engine::Output output) {
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
      if (stop != nullptr && *stop && !std::exchange(cancelled, true)) cancel(plan);
      for (auto& [choice, output] : outputs) {
        const auto delta = answer.feed(choice, std::move(output));
        if (!delta) continue;
        if (on_delta) on_delta(*delta);
        completion.add(*delta);
      }
    }
  } catch (...) {
    cancel(plan);
    throw;
  }
  completion.usage = answer.usage();
  return completion;
}

}  // namespace quern::server
