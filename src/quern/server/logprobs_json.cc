// See logprobs_json.h. Layout: vLLM entrypoints/openai/chat_completion/serving.py,
// completion/serving.py.
#include "quern/server/logprobs_json.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace quern::server {
namespace {

// JSON has no -inf; vLLM writes this instead.
constexpr float kLowestLogprob = -9999.0F;

float finite(float logprob) { return std::max(logprob, kLowestLogprob); }

std::int64_t count_characters(const std::string& utf8) {
  return std::ranges::count_if(
      utf8, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

Json chat_token_json(const GenerationPlan& plan, const engine::TokenLogprob& token,
                     const Tokenizer& tokenizer) {
  const std::string text = token_text(token.token_id, plan.tokens_as_ids, tokenizer);
  // The bytes are the token's own, so that characters split over tokens can be put together.
  const std::string& raw = plan.tokens_as_ids ? text : tokenizer.token_bytes(token.token_id);
  Json bytes = Json::array();
  for (const char c : raw) bytes.push_back(static_cast<unsigned char>(c));
  return {{"token", text}, {"logprob", finite(token.logprob)}, {"bytes", std::move(bytes)}};
}

}  // namespace

std::string token_text(std::int32_t id, bool as_id, const Tokenizer& tokenizer) {
  return as_id ? fmt::format("token_id:{}", id) : tokenizer.decode(std::span(&id, 1), false);
}

Json chat_logprobs_json(const GenerationPlan& plan, std::span<const engine::TokenLogprobs> logprobs,
                        const Tokenizer& tokenizer) {
  Json content = Json::array();
  for (const engine::TokenLogprobs& entry : logprobs) {
    Json json = chat_token_json(plan, entry.chosen, tokenizer);
    Json top = Json::array();
    for (const engine::TokenLogprob& token : entry.top) {
      top.push_back(chat_token_json(plan, token, tokenizer));
    }
    json["top_logprobs"] = std::move(top);
    content.push_back(std::move(json));
  }
  return {{"content", std::move(content)}};
}

Json prompt_logprobs_json(const GenerationPlan& plan,
                          std::span<const engine::TokenLogprobs> logprobs,
                          const Tokenizer& tokenizer) {
  if (!plan.sampling.prompt_logprobs) return nullptr;
  Json list = Json::array({nullptr});
  for (const engine::TokenLogprobs& entry : logprobs) {
    Json object = Json::object();
    const auto add = [&](const engine::TokenLogprob& token, int rank) {
      object[std::to_string(token.token_id)] = {
          {"logprob", finite(token.logprob)},
          {"rank", rank},
          {"decoded_token", token_text(token.token_id, false, tokenizer)}};
    };
    add(entry.chosen, entry.rank);
    for (std::size_t i = 0; i < entry.top.size(); ++i) {
      if (entry.top[i].token_id != entry.chosen.token_id) {
        add(entry.top[i], static_cast<int>(i) + 1);
      }
    }
    list.push_back(std::move(object));
  }
  return list;
}

void CompletionLogprobs::add_token(std::int32_t token) {
  offsets_.push_back(characters_);
  tokens_.push_back(token_text(token, as_ids_, tokenizer_));
  characters_ += count_characters(decoder_.feed(token));
}

void CompletionLogprobs::add_first(std::int32_t token) {
  add_token(token);
  logprobs_.push_back(nullptr);
  top_.push_back(nullptr);
}

// The chosen token stands first. Tokens of equal text (pieces of characters) share a key: the more
// probable one counts.
void CompletionLogprobs::add(const engine::TokenLogprobs& entry) {
  add_token(entry.chosen.token_id);
  logprobs_.push_back(finite(entry.chosen.logprob));
  Json top = Json::object();
  const auto put = [&](const engine::TokenLogprob& token) {
    const std::string text = token_text(token.token_id, as_ids_, tokenizer_);
    const auto known = top.find(text);
    if (known == top.end()) {
      top[text] = finite(token.logprob);
    } else if (known->get<float>() < token.logprob) {
      *known = finite(token.logprob);
    }
  };
  put(entry.chosen);
  for (const engine::TokenLogprob& token : entry.top) put(token);
  top_.push_back(std::move(top));
}

Json CompletionLogprobs::take() {
  const auto taken = [](Json& list) { return std::exchange(list, Json::array()); };
  return {{"text_offset", taken(offsets_)},
          {"token_logprobs", taken(logprobs_)},
          {"tokens", taken(tokens_)},
          {"top_logprobs", taken(top_)}};
}

}  // namespace quern::server
