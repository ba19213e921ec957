// See request.h. Source: lm-evaluation-harness lm_eval/models/openai_completions.py
// (LocalChatCompletion._create_payload, parse_generations).
#include "quern/eval/request.h"

#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/python_text.h"

namespace quern {
namespace {

constexpr std::size_t kMaxStops = 4;  // OpenAI's limit; the harness cuts the list

// Removes `key` and gives its value, or null.
Json take(Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end()) return nullptr;
  Json value = std::move(*found);
  object.erase(found);
  return value;
}

Json stop_list(Json until, const ModelArguments& model) {
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
  while (until.size() > kMaxStops) until.erase(until.size() - 1);
  return until;
}

}  // namespace

Json make_request(const Json& messages, const Json& generation_kwargs,
                  const ModelArguments& model) {
  Json rest = generation_kwargs;
  take(rest, "do_sample");
  Json max_tokens =
      rest.contains("max_tokens") ? take(rest, "max_tokens") : take(rest, "max_gen_toks");
  if (max_tokens.is_null()) max_tokens = model.max_gen_toks;
  Json temperature = take(rest, "temperature");
  if (temperature.is_null()) temperature = 0;
  Json body{{"messages", messages},
            {"model", model.model},
            {"max_tokens", std::move(max_tokens)},
            {"temperature", std::move(temperature)},
            {"stop", stop_list(take(rest, "until"), model)},
            {"seed", model.seed}};
  for (auto& [key, value] : rest.items()) body[key] = std::move(value);
  return body;
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
    if (!choice.contains("message") || !choice["message"].is_object() ||
        !choice["message"].contains("content")) {
      return unreadable("a choice has no message.content");
    }
    if (index == 0) first = &choice["message"]["content"];
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
