// See request.h. Source: lm-evaluation-harness lm_eval/models/openai_completions.py
// (LocalChatCompletion._create_payload, parse_generations).
#include "quern/eval/request.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

constexpr std::size_t kMaxStops = 4;  // OpenAI's limit; the harness's chat client cuts the list

// Removes `key` and gives its value, or null.
Json take(Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return nullptr;
  Json value = std::move(*found);
  object.erase(found);
  return value;
}

Json stop_list(Json until, const ModelArguments& model, bool chat) {
  if (until.is_null()) until = Json::array();
  if (until.is_string()) until = Json::array({until});
  if (!until.is_array())
    throw Error("generation argument 'until' must be text or a list, found {}", until.dump());
  for (const Json& stop : until) {
    if (!stop.is_string())
      throw Error("generation argument 'until' must hold text, found {}", stop.dump());
  }
  // Only the harness's sequential client adds the end-of-sequence text.
  if (model.eos_string && model.num_concurrent <= 1) {
    bool known = false;
    for (const Json& stop : until) known = known || stop == *model.eos_string;
    if (!known) until.push_back(*model.eos_string);
  }
  while (chat && until.size() > kMaxStops) until.erase(until.size() - 1);
  return until;
}

}  // namespace

Json make_request(const Json& prompt, const Json& generation_kwargs, const ModelArguments& model) {
  const bool chat = prompt.is_array() && (prompt.empty() || prompt[0].is_object());
  Json rest = generation_kwargs;
  take(rest, "do_sample");
  Json max_tokens =
      rest.contains("max_tokens") ? take(rest, "max_tokens") : take(rest, "max_gen_toks");
  if (max_tokens.is_null()) max_tokens = model.max_gen_toks;
  Json temperature = take(rest, "temperature");
  if (temperature.is_null()) temperature = 0;
  Json body{{chat ? "messages" : "prompt", prompt},
            {"model", model.model},
            {"max_tokens", std::move(max_tokens)},
            {"temperature", std::move(temperature)},
            {"stop", stop_list(take(rest, "until"), model, chat)},
            {"seed", model.seed}};
  for (auto& [key, value] : rest.items()) body[key] = std::move(value);
  return body;
}

std::int64_t max_generated_tokens(const Json& generation_kwargs, const ModelArguments& model) {
  const auto found = generation_kwargs.find("max_gen_toks");
  if (found == generation_kwargs.end() || found->is_null()) return model.max_gen_toks;
  if (!found->is_number_integer() || *found < 1)
    throw Error("generation argument 'max_gen_toks' must be above 0, found {}", found->dump());
  return found->get<std::int64_t>();
}

Json make_likelihood_request(const LikelihoodTokens& tokens, const ModelArguments& model) {
  return Json{{"model", model.model}, {"prompt", Json::array({tokens.tokens})},
              {"temperature", 0},     {"max_tokens", 1},
              {"logprobs", 1},        {"seed", model.seed},
              {"echo", true}};
}

Loglikelihood likelihood_of_response(const Json& response, const LikelihoodTokens& tokens) {
  const std::size_t size = tokens.tokens.size();
  const auto list = [&](const char* key) -> const Json& {
    const Json::json_pointer place(fmt::format("/choices/0/logprobs/{}", key));
    if (!response.contains(place) || !response.at(place).is_array())
      throw Error("the response has no choices[0].logprobs.{}", key);
    const Json& values = response.at(place);
    if (values.size() < size)
      throw Error(
          "the response has {} {} for a prompt of {} tokens (does the server support echo?)",
          values.size(), key, size);
    return values;
  };
  const Json& chosen = list("token_logprobs");
  const Json& best = list("top_logprobs");
  Loglikelihood out{0, true};
  for (std::size_t i = tokens.context; i < size; ++i) {
    if (!chosen[i].is_number()) throw Error("token_logprobs[{}] is {}", i, chosen[i].dump());
    const auto value = chosen[i].get<double>();
    out.value += value;
    if (!best[i].is_object() || best[i].empty()) throw Error("top_logprobs[{}] is no object", i);
    double top = -std::numeric_limits<double>::infinity();
    for (const auto& [token, logprob] : best[i].items()) {
      if (!logprob.is_number()) throw Error("top_logprobs[{}] holds {}", i, logprob.dump());
      top = std::max(top, logprob.get<double>());
    }
    out.is_greedy = out.is_greedy && value == top;
  }
  return out;
}

std::optional<std::string> answer_of_response(const Json& response) {
  const auto unreadable = [](const char* why) {
    spdlog::warn("could not read an answer from the response ({}); it counts as empty", why);
    return std::string();
  };
  const auto choices = response.is_object() ? response.find("choices") : response.end();
  if (choices == response.end()) return unreadable("no 'choices'");
  if (!choices->is_array() || choices->empty()) return unreadable("'choices' is no list or empty");
  const Json* first = nullptr;
  for (const Json& choice : *choices) {
    if (!choice.is_object() || !choice.contains("index") || !choice["index"].is_number_integer()) {
      return unreadable("a choice has no index");
    }
    const auto index = choice["index"].get<std::int64_t>();
    if (index < 0 || index >= static_cast<std::int64_t>(choices->size())) {
      return unreadable("the index of a choice is out of range");
    }
    const bool is_chat = choice.contains("message") && choice["message"].is_object() &&
                         choice["message"].contains("content");
    if (!is_chat && !choice.contains("text")) {
      return unreadable("a choice has no message.content");
    }
    if (index == 0) first = is_chat ? &choice["message"]["content"] : &choice["text"];
  }
  if (first == nullptr || first->is_null()) return std::nullopt;
  if (!first->is_string()) return unreadable("message.content is no text");
  return first->get<std::string>();
}

std::string drop_thinking(std::string text, const std::string& think_end_token) {
  if (think_end_token.empty()) return text;
  std::string_view rest = text;
  if (const std::size_t at = text.rfind(think_end_token); at != std::string::npos) {
    rest.remove_prefix(at + think_end_token.size());
  }
  return std::string(python_lstrip(rest));
}

}  // namespace quern
