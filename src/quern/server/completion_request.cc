// See completion_request.h.
#include "quern/server/completion_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "quern/base/error.h"
#include "quern/server/api_error.h"
#include "quern/server/structured_output.h"

namespace quern::server {
namespace {

bool all_numbers(const Json& list) {
  return std::ranges::all_of(list, [](const Json& item) { return item.is_number_integer(); });
}

// One string or list of ids; adds an error entry and returns false for anything else.
bool add_prompt(const Json& json, FieldReader& reader, CompletionRequest& request) {
  if (json.is_string()) {
    request.prompts.emplace_back(json.get<std::string>());
    return true;
  }
  if (!json.is_array() || !all_numbers(json)) {
    reader.fail("prompt", "string_type",
                "Input should be a string, a list of strings, a list of token ids or a list of "
                "lists of token ids",
                json);
    return false;
  }
  request.prompts.emplace_back(json.get<std::vector<std::int64_t>>());
  return true;
}

void read_prompts(const Json& body, FieldReader& reader, CompletionRequest& request) {
  const auto prompt = body.find("prompt");
  if (prompt == body.end() || prompt->is_null() || *prompt == "" ||
      (prompt->is_array() && prompt->empty())) {
    throw ApiError(400, "Either prompt or prompt_embeds must be provided and non-empty.", "prompt");
  }
  if (!prompt->is_array() || all_numbers(*prompt)) {
    add_prompt(*prompt, reader, request);
    return;
  }
  if (prompt->size() > kMaxCompletionPrompts) {
    throw ApiError(400,
                   fmt::format("prompt list length {} exceeds the maximum allowed count of {}.",
                               prompt->size(), kMaxCompletionPrompts),
                   "prompt");
  }
  for (const Json& item : *prompt) {
    if (!add_prompt(item, reader, request)) return;
  }
}

void check_rules(const CompletionRequest& request, const Json& body) {
  if (const auto suffix = body.find("suffix"); suffix != body.end() && !suffix->is_null()) {
    throw ApiError(400, "suffix is not currently supported", "suffix");
  }
  if (request.logprobs && *request.logprobs < -1) {
    throw parameter_error("`logprobs` must be a positive value or -1.", "logprobs",
                          *request.logprobs);
  }
  if (!request.logprob_token_ids.empty() && !request.logprobs) {
    throw parameter_error("when using `logprob_token_ids`, `logprobs` must be set.",
                          "logprob_token_ids", body["logprob_token_ids"]);
  }
}

std::vector<std::int32_t> prompt_tokens(const CompletionRequest& request,
                                        const CompletionRequest::Prompt& prompt,
                                        std::int64_t output_tokens, const SamplingLimits& limits,
                                        const Tokenizer& tokenizer) {
  if (const auto* text = std::get_if<std::string>(&prompt)) {
    check_text_length(request, limits, tokenizer, output_tokens, *text);
    try {
      return tokenizer.encode(*text);
    } catch (const Error& error) {
      throw ApiError(400, error.what(), "prompt");
    }
  }
  std::vector<std::int32_t> ids;
  for (const std::int64_t id : std::get<std::vector<std::int64_t>>(prompt)) {
    if (id < 0 || id >= limits.vocab_size) {
      throw ApiError(400, fmt::format("Token id {} is out of vocabulary", id), "prompt");
    }
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

}  // namespace

CompletionRequest parse_completion_request(std::string_view text) {
  const Json body = parse_body(text);
  CompletionRequest request;
  FieldReader reader(body, "'body'");
  read_prompts(body, reader, request);
  read_sampling_request(reader, request);
  reader.read("max_tokens", request.max_tokens);
  reader.read("logprobs", request.logprobs);
  reader.read("echo", request.echo);
  reader.finish();
  check_sampling_request(request, body);
  request.structured_output = read_structured_output(body);
  check_rules(request, body);
  if (request.echo && request.logprobs && !request.prompt_logprobs) {
    request.prompt_logprobs = request.logprobs;
  }
  return request;
}

CompletionPlan plan_completion(const CompletionRequest& request, const SamplingLimits& limits,
                               const std::string& model_name, const Tokenizer& tokenizer) {
  check_generations(request, request.prompts.size(), limits);
  CompletionPlan plan;
  plan.echo = request.echo;
  plan.only_echo = request.echo && request.max_tokens == 0;
  // The engine has no generation without a token: one is made and not shown.
  const std::int64_t asked = wanted_tokens(plan.only_echo ? 1 : request.max_tokens);
  const std::string id = "cmpl-" + (request.request_id.empty() ? random_id() : request.request_id);
  std::size_t ids = 0;
  for (const CompletionRequest::Prompt& prompt : request.prompts) {
    GenerationPlan generation;
    generation.id = id;
    generation.model = model_name;
    generation.prompt = prompt_tokens(request, prompt, asked, limits, tokenizer);
    const std::size_t whole = generation.prompt.size();
    truncate_prompt(request, limits, asked, generation.prompt);
    if (generation.prompt.empty()) {
      throw ApiError(400, "The decoder prompt cannot be empty", "prompt");
    }
    if (plan.prompts.empty()) {
      plan_sampling(request, limits, asked, request.logprobs, tokenizer, generation);
    } else {
      plan_sampling_like(plan.first(), request, limits, asked, generation);
    }
    ids += count_ids(generation);
    check_ids(ids);
    const auto* text = std::get_if<std::string>(&prompt);
    if (plan.echo) {
      plan.prompt_texts.push_back(text != nullptr && whole == generation.prompt.size()
                                      ? *text
                                      : tokenizer.decode(generation.prompt, false));
    }
    plan.prompts.push_back(std::move(generation));
  }
  return plan;
}

}  // namespace quern::server
