// Answers and likelihoods computed from the prompt alone, as `tools/eval_replay_server.py made_up`.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <string>

#include "quern/base/json.h"
#include "quern/eval/python_text.h"

namespace quern::cli {

inline std::uint32_t mix(std::uint32_t state, std::uint32_t value) {
  return (state * 1000003U) ^ value;
}

// Of messages, text, or a batch of one list of tokens; null: no content.
inline Json made_up_text(const Json& prompt) {
  std::uint32_t state = 7;
  if (prompt.is_array() && prompt.at(0).is_array()) {
    for (const Json& token : prompt[0]) state = mix(state, token.get<std::uint32_t>());
  } else {
    std::string text;
    if (prompt.is_string()) text = prompt.get<std::string>();
    if (prompt.is_array())
      for (const Json& message : prompt) text += message.at("content").get<std::string>();
    for (const char c : text) state = mix(state, static_cast<unsigned char>(c));
  }
  if (state % 11 == 0) return nullptr;
  if (state % 13 == 0) return "No number.";
  return fmt::format("I think it is {}.\n#### {}", state % 4, state / 4 % 4);
}

inline Json made_up_logprobs(const Json& tokens) {
  Json chosen = Json::array({nullptr});
  Json top = Json::array({nullptr});
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto next = i + 1 < tokens.size() ? tokens[i + 1].get<std::uint32_t>() : 0U;
    const std::uint32_t state = mix(mix(7, tokens[i].get<std::uint32_t>()), next) % 1009;
    const double logprob = -static_cast<double>(state) / 1013 + 0.0;
    chosen.push_back(logprob);
    top.push_back({{"chosen", logprob}, {"best", state % 5 != 0 ? logprob : logprob / 2}});
  }
  return Json{{"token_logprobs", chosen}, {"top_logprobs", top}};
}

inline std::string made_up_response(const Json& request) {
  Json choice{{"index", 0}};
  if (request.contains("messages")) {
    choice["message"] = {{"role", "assistant"}, {"content", made_up_text(request["messages"])}};
  } else if (request.value("echo", false)) {
    choice["text"] = "";
    choice["logprobs"] = made_up_logprobs(request["prompt"].at(0));
  } else {
    choice["text"] = made_up_text(request["prompt"]);
  }
  return python_json(Json{{"model", request.at("model")}, {"choices", Json::array({choice})}});
}

}  // namespace quern::cli
