// See sampling_plan.h. Rules: vLLM sampling_params.py, renderers/params.py.
#include "quern/server/sampling_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <random>
#include <unordered_map>
#include <utility>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

constexpr int kMaxChoices = 16384;     // vLLM's bound of n
constexpr double kGreedyBelow = 1e-5;  // vLLM sampling_params.py, _SAMPLING_EPS
constexpr double kLowestTemperature = 0.01;
constexpr float kMaxLogitBias = 100.0F;
// Each generation has its own copy of its prompt and of the request's lists.
constexpr std::size_t kMaxRequestIds = 1 << 25;

// The value in the engine's type; what does not fit stays out of every valid range.
int to_int(std::int64_t value) {
  return static_cast<int>(std::clamp<std::int64_t>(value, std::numeric_limits<int>::min(),
                                                   std::numeric_limits<int>::max()));
}

// check_generations() has seen n.
int choices(const SamplingRequest& request, const engine::SamplingParams& sampling) {
  if (request.n > 1 && sampling.temperature < kGreedyBelow) {
    throw ApiError(400, fmt::format("n must be 1 when using greedy sampling, got {}.", request.n));
  }
  return static_cast<int>(request.n);
}

// vLLM: a word with a blank before it counts too when that makes other tokens of the same number.
std::vector<std::vector<std::int32_t>> word_tokens(const std::vector<std::string>& words,
                                                   const Tokenizer& tokenizer) {
  std::vector<std::vector<std::int32_t>> result;
  for (const std::string& word : words) {
    const std::string bare = word.substr(std::min(word.find_first_not_of(" \t\r\n"), word.size()));
    if (bare.empty()) throw ApiError(400, "bad_words cannot contain a blank string.", "bad_words");
    std::vector<std::int32_t> tokens, inside;
    try {
      tokens = tokenizer.encode(bare);
      inside = tokenizer.encode(" " + bare);
    } catch (const Error& error) {
      throw ApiError(400, error.what(), "bad_words");
    }
    if (tokens.empty()) throw ApiError(400, "a word of bad_words has no tokens.", "bad_words");
    const bool other = inside.size() == tokens.size() && inside.front() != tokens.front();
    result.push_back(std::move(tokens));
    if (other) result.push_back(std::move(inside));
  }
  return result;
}

// Each id once, so that a list is no longer than the vocabulary. Behind an id that is not of it
// nothing counts: the list is refused.
std::vector<std::int32_t> unique_ids(const std::vector<std::int64_t>& from, int vocab_size) {
  std::vector<std::int32_t> ids;
  std::vector<bool> seen(from.empty() ? 0 : static_cast<std::size_t>(vocab_size));
  for (const std::int64_t id : from) {
    if (id < 0 || id >= vocab_size) {
      ids.push_back(to_int(id));
      break;
    }
    if (seen[static_cast<std::size_t>(id)]) continue;
    seen[static_cast<std::size_t>(id)] = true;
    ids.push_back(static_cast<std::int32_t>(id));
  }
  return ids;
}

// "5" and " 5" are one id: the last one wins, as in a Python dictionary.
std::vector<std::pair<std::int32_t, float>> biases(
    const std::vector<std::pair<std::int64_t, double>>& from) {
  std::vector<std::pair<std::int32_t, float>> result;
  std::unordered_map<std::int32_t, std::size_t> places;
  for (const auto& [id, bias] : from) {
    const float value = std::clamp(static_cast<float>(bias), -kMaxLogitBias, kMaxLogitBias);
    const auto [place, added] = places.emplace(to_int(id), result.size());
    if (added) {
      result.emplace_back(to_int(id), value);
    } else {
      result[place->second].second = value;
    }
  }
  return result;
}

engine::SamplingParams sampling_params(const SamplingRequest& request, const SamplingLimits& limits,
                                       const Tokenizer& tokenizer) {
  const GenerationConfig& defaults = limits.defaults;
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
  params.stop_token_ids = unique_ids(request.stop_token_ids, limits.vocab_size);
  for (const std::int64_t id : request.logprob_token_ids) {
    params.logprob_token_ids.push_back(to_int(id));
  }
  if (request.allowed_token_ids) {
    params.allowed_token_ids = unique_ids(*request.allowed_token_ids, limits.vocab_size);
  }
  params.bad_words = word_tokens(request.bad_words, tokenizer);
  params.logit_bias = biases(request.logit_bias);
  params.ignore_eos = request.ignore_eos;
  params.include_stop_str_in_output = request.include_stop_str_in_output;
  params.skip_special_tokens = request.skip_special_tokens;
  params.stop_in_reasoning = limits.stop_in_reasoning;
  if (request.prompt_logprobs) params.prompt_logprobs = to_int(*request.prompt_logprobs);
  return params;
}

// vLLM stops tokenizing one token behind the most that fits, and says that number.
ApiError too_long(const SamplingLimits& limits, std::int64_t wanted) {
  const std::int64_t at_least = max_prompt_tokens(limits, wanted) + 1;
  const std::uint64_t total =
      static_cast<std::uint64_t>(at_least) + static_cast<std::uint64_t>(wanted);
  return {400,
          fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                      "output tokens and your prompt contains at least {} input tokens, for a "
                      "total of at least {} tokens. Please reduce the length of the input prompt "
                      "or the number of requested output tokens. (parameter=input_tokens, "
                      "value={})",
                      limits.max_model_len, wanted, at_least, total, at_least),
          "input_tokens"};
}

// A request that asks for more than fits is an error; one that does not say gets what is left.
int output_tokens(std::optional<std::int64_t> asked, const SamplingLimits& limits,
                  std::int64_t prompt_tokens) {
  const std::int64_t limit = limits.max_model_len;
  const std::int64_t wanted = wanted_tokens(asked);
  if (prompt_tokens > limit - wanted) throw too_long(limits, wanted);
  std::int64_t result = asked.value_or(limit - prompt_tokens);
  if (limits.defaults.max_new_tokens) {
    result = std::min<std::int64_t>(result, *limits.defaults.max_new_tokens);
  }
  return to_int(result);
}

// What the request says besides how tokens are chosen.
void describe_answer(const SamplingRequest& request, const SamplingLimits& limits,
                     GenerationPlan& plan) {
  static std::atomic<std::uint64_t> last_serial = 0;
  plan.serial = ++last_serial;
  plan.cache_salt = request.cache_salt;
  plan.return_token_ids = request.return_token_ids;
  plan.tokens_as_ids = request.return_tokens_as_token_ids.value_or(limits.tokens_as_ids);
  plan.priority = request.priority;
  plan.stream = request.stream;
  plan.include_usage = request.include_usage;
  plan.continuous_usage = request.include_usage && request.continuous_usage_stats;
}

}  // namespace

std::int64_t wanted_tokens(std::optional<std::int64_t> asked) {
  if (asked && *asked < 1) {
    throw parameter_error(fmt::format("max_tokens must be at least 1, got {}.", *asked),
                          "max_tokens", *asked);
  }
  return asked.value_or(1);
}

void check_generations(const SamplingRequest& request, std::size_t prompts,
                       const SamplingLimits& limits) {
  if (request.n < 1) {
    throw ApiError(400, fmt::format("n must be at least 1, got {}.", request.n), "n");
  }
  if (request.n > kMaxChoices) {
    throw ApiError(400, fmt::format("n must be at most {}, got {}.", kMaxChoices, request.n), "n");
  }
  const std::size_t total = static_cast<std::size_t>(request.n) * prompts;
  if (total > 1 && std::cmp_greater(total, limits.max_in_flight)) {
    throw ApiError(400,
                   fmt::format("n for each prompt makes {} generations, but this server takes at "
                               "most {} at once.",
                               total, limits.max_in_flight),
                   "n");
  }
}

void check_text_length(const SamplingRequest& request, const SamplingLimits& limits,
                       const Tokenizer& tokenizer, std::int64_t output_tokens,
                       std::string_view text) {
  const auto token_bytes = tokenizer.max_token_bytes();
  const auto fits = static_cast<std::size_t>(max_prompt_tokens(limits, output_tokens));
  if (!request.truncate_prompt_tokens) {
    if (token_bytes && text.size() > fits * *token_bytes) throw too_long(limits, output_tokens);
    return;
  }
  // Where such a text may be cut before it is tokenized, nobody knows.
  const std::size_t most = std::max(kMaxTextBytes, fits * token_bytes.value_or(0));
  if (text.size() <= most) return;
  throw ApiError(400,
                 fmt::format("A prompt that is to be truncated can have at most {} bytes, got {}.",
                             most, text.size()),
                 "truncate_prompt_tokens");
}

std::size_t count_ids(const GenerationPlan& plan) {
  const engine::SamplingParams& sampling = plan.sampling;
  std::size_t ids = plan.prompt.size() + sampling.stop_token_ids.size() +
                    sampling.allowed_token_ids.size() + 2 * sampling.logit_bias.size();
  for (const std::vector<std::int32_t>& word : sampling.bad_words) ids += word.size();
  for (const std::string& text : sampling.stop) ids += text.size() / sizeof(std::int32_t);
  return ids * static_cast<std::size_t>(plan.n);
}

void check_ids(std::size_t ids) {
  if (ids <= kMaxRequestIds) return;
  throw ApiError(400,
                 fmt::format("The prompts and lists of token ids of all generations have {} ids "
                             "together, more than the {} that a request may have.",
                             ids, kMaxRequestIds),
                 "n");
}

std::int64_t max_prompt_tokens(const SamplingLimits& limits, std::int64_t output_tokens) {
  return std::max<std::int64_t>(
      0, limits.max_model_len - std::clamp<std::int64_t>(output_tokens, 0, limits.max_model_len));
}

void truncate_prompt(const SamplingRequest& request, const SamplingLimits& limits,
                     std::int64_t output_tokens, std::vector<std::int32_t>& prompt) {
  if (!request.truncate_prompt_tokens) return;
  const std::int64_t fits = max_prompt_tokens(limits, output_tokens);
  std::int64_t keep = *request.truncate_prompt_tokens;
  if (keep > limits.max_model_len) {
    throw parameter_error(fmt::format("truncate_prompt_tokens value ({}) is greater than "
                                      "max_model_len ({}). Please request a smaller truncation "
                                      "size.",
                                      keep, limits.max_model_len),
                          "truncate_prompt_tokens", keep);
  }
  if (keep == -1) keep = fits;
  if (std::cmp_less_equal(prompt.size(), keep)) return;
  if (request.truncation_side == "right") {
    prompt.resize(static_cast<std::size_t>(keep));
  } else {
    prompt.erase(prompt.begin(), prompt.end() - keep);
  }
}

void plan_sampling(const SamplingRequest& request, const SamplingLimits& limits,
                   std::optional<std::int64_t> asked, std::optional<std::int64_t> logprobs,
                   const Tokenizer& tokenizer, GenerationPlan& plan) {
  if (request.priority != 0 && !limits.priority_scheduling) {
    throw parameter_error(
        "`priority` other than 0 needs `--scheduling-policy priority`, and this server schedules "
        "first come, first served.",
        "priority", request.priority);
  }
  plan.sampling = sampling_params(request, limits, tokenizer);
  if (logprobs) plan.sampling.logprobs = to_int(*logprobs);
  plan.sampling.max_tokens =
      output_tokens(asked, limits, static_cast<std::int64_t>(plan.prompt.size()));
  plan.n = choices(request, plan.sampling);
  try {
    plan.sampling.validate(limits.vocab_size, limits.max_logprobs);
  } catch (const engine::InvalidRequest& error) {
    throw ApiError(400, error.what(), error.parameter());
  }
  plan.created = unix_time();
  describe_answer(request, limits, plan);
}

void plan_sampling_like(const GenerationPlan& first, const SamplingRequest& request,
                        const SamplingLimits& limits, std::int64_t asked, GenerationPlan& plan) {
  // `asked` is the same for all prompts, and so is what comes of it.
  output_tokens(asked, limits, static_cast<std::int64_t>(plan.prompt.size()));
  plan.sampling = first.sampling;
  plan.n = first.n;
  plan.created = first.created;
  describe_answer(request, limits, plan);
}

std::string random_id() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  const std::uint64_t high = random();
  return fmt::format("{:016x}{:016x}", high, random());
}

std::int64_t unix_time() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

}  // namespace quern::server
