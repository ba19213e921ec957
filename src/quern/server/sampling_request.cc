// See sampling_request.h.
#include "quern/server/sampling_request.h"

#include <fmt/format.h>

#include <array>
#include <string_view>
#include <variant>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

// The members whose type says all about how they are read.
using Member = std::variant<
    bool SamplingRequest::*, std::int64_t SamplingRequest::*, double SamplingRequest::*,
    std::string SamplingRequest::*, std::optional<bool> SamplingRequest::*,
    std::optional<std::int64_t> SamplingRequest::*, std::optional<double> SamplingRequest::*,
    std::vector<std::int64_t> SamplingRequest::*>;

struct Field {
  std::string_view name;
  Member member;
};

const auto kFields = std::to_array<Field>({
    {"model", &SamplingRequest::model},
    {"temperature", &SamplingRequest::temperature},
    {"top_p", &SamplingRequest::top_p},
    {"top_k", &SamplingRequest::top_k},
    {"min_p", &SamplingRequest::min_p},
    {"presence_penalty", &SamplingRequest::presence_penalty},
    {"frequency_penalty", &SamplingRequest::frequency_penalty},
    {"repetition_penalty", &SamplingRequest::repetition_penalty},
    {"seed", &SamplingRequest::seed},
    {"n", &SamplingRequest::n},
    {"stop_token_ids", &SamplingRequest::stop_token_ids},
    {"include_stop_str_in_output", &SamplingRequest::include_stop_str_in_output},
    {"ignore_eos", &SamplingRequest::ignore_eos},
    {"min_tokens", &SamplingRequest::min_tokens},
    {"prompt_logprobs", &SamplingRequest::prompt_logprobs},
    {"logprob_token_ids", &SamplingRequest::logprob_token_ids},
    {"truncate_prompt_tokens", &SamplingRequest::truncate_prompt_tokens},
    {"truncation_side", &SamplingRequest::truncation_side},
    {"skip_special_tokens", &SamplingRequest::skip_special_tokens},
    {"return_token_ids", &SamplingRequest::return_token_ids},
    {"return_tokens_as_token_ids", &SamplingRequest::return_tokens_as_token_ids},
    {"stream", &SamplingRequest::stream},
    {"request_id", &SamplingRequest::request_id},
    {"cache_salt", &SamplingRequest::cache_salt},
    {"priority", &SamplingRequest::priority},
});

// Fields that change the answer and that this build does not implement: refused, not ignored.
constexpr auto kUnsupported = std::to_array<std::string_view>({
    "prompt_embeds",
    "repetition_detection",
    "use_beam_search",
    "watermarking",
});

constexpr std::size_t kMaxLogprobTokenIds = 128;  // vLLM sampling_params.py
constexpr std::size_t kMaxBadWords = 1024;
constexpr std::size_t kMaxCacheSalt = 128;
constexpr std::size_t kMaxRequestId = 256;

void read_stream_options(FieldReader& reader, SamplingRequest& request) {
  Json options;
  reader.read_json("stream_options", JsonKind::kObject, options);
  if (!options.is_object()) return;
  FieldReader nested(options, "'body', 'stream_options'");
  nested.read("include_usage", request.include_usage);
  nested.read("continuous_usage_stats", request.continuous_usage_stats);
  reader.absorb(nested);
}

void check_logprob_fields(const SamplingRequest& request) {
  if (request.prompt_logprobs) {
    const std::int64_t count = *request.prompt_logprobs;
    if (request.stream && (count > 0 || count == -1)) {
      throw parameter_error("`prompt_logprobs` are not available when `stream=True`.",
                            "prompt_logprobs", count);
    }
    if (count < -1) {
      throw parameter_error("`prompt_logprobs` must be a positive value or -1.", "prompt_logprobs",
                            count);
    }
  }
  if (request.logprob_token_ids.size() > kMaxLogprobTokenIds) {
    throw ApiError(400,
                   fmt::format("`logprob_token_ids` can have at most {} ids, got {}.",
                               kMaxLogprobTokenIds, request.logprob_token_ids.size()),
                   "logprob_token_ids");
  }
}

void check_words(const SamplingRequest& request, const Json& body) {
  for (const std::string& stop : request.stop) {
    if (stop.empty()) {
      throw parameter_error("stop cannot contain an empty string.", "stop", body["stop"]);
    }
  }
  if (request.bad_words.size() > kMaxBadWords) {
    throw ApiError(400,
                   fmt::format("bad_words can have at most {} words, got {}.", kMaxBadWords,
                               request.bad_words.size()),
                   "bad_words");
  }
  for (const std::string& word : request.bad_words) {
    if (word.empty()) {
      throw parameter_error("bad_words cannot contain an empty string.", "bad_words",
                            body["bad_words"]);
    }
  }
}

void refuse_unsupported(const Json& body) {
  for (const std::string_view name : kUnsupported) {
    const auto field = body.find(std::string(name));
    if (field != body.end() && !field->is_null() && *field != false) {
      throw ApiError(501, fmt::format("`{}` is not supported.", name), std::string(name));
    }
  }
}

}  // namespace

Json parse_body(std::string_view body) {
  Json json;
  try {
    json = parse_json(body, "body", {.max_depth = kMaxJsonDepth, .reject_duplicate_keys = false});
  } catch (const Error& error) {
    throw ApiError(
        400,
        fmt::format("1 validation error:\n  {{'type': 'json_invalid', 'loc': ('body',), "
                    "'msg': 'JSON decode error', 'input': {{}}, 'ctx': {{'error': {}}}}}",
                    python_repr(Json(error.what()))),
        "body", "Bad Request");
  }
  if (!json.is_object()) {
    throw ApiError(400,
                   fmt::format("1 validation error:\n  {{'type': 'model_attributes_type', 'loc': "
                               "('body',), 'msg': 'Input should be a valid dictionary or object to "
                               "extract fields from', 'input': {}}}",
                               python_repr(json)),
                   "body", "Bad Request");
  }
  return json;
}

Json sampling_schema() {
  const SamplingRequest defaults;
  Json properties = Json::object();
  for (const Field& field : kFields) {
    properties[std::string(field.name)] =
        std::visit([&](auto member) { return schema_of(defaults.*member); }, field.member);
  }
  const Json strings = {{"type", "array"}, {"items", {{"type", "string"}}}};
  const Json text_or_strings = {{"anyOf", {{{"type", "string"}}, strings, {{"type", "null"}}}}};
  properties["stop"] = text_or_strings;
  properties["bad_words"] = text_or_strings;
  properties["logit_bias"] = {{"type", Json::array({"object", "null"})},
                              {"additionalProperties", {{"type", "number"}}}};
  properties["allowed_token_ids"] = schema_of(std::vector<std::int64_t>());
  properties["stream_options"] = {{"type", Json::array({"object", "null"})}};
  return properties;
}

void read_sampling_request(FieldReader& reader, SamplingRequest& request) {
  for (const Field& field : kFields) {
    std::visit([&](auto member) { reader.read(field.name, request.*member); }, field.member);
  }
  reader.read_strings("stop", request.stop);
  reader.read_strings("bad_words", request.bad_words);
  reader.read_bias("logit_bias", request.logit_bias);
  reader.read("allowed_token_ids", request.allowed_token_ids);
  read_stream_options(reader, request);
  if (!request.truncation_side.empty() && request.truncation_side != "left" &&
      request.truncation_side != "right") {
    reader.fail("truncation_side", "literal_error", "Input should be left or right",
                request.truncation_side);
  }
  if (request.truncate_prompt_tokens && *request.truncate_prompt_tokens < -1) {
    reader.fail("truncate_prompt_tokens", "greater_than_equal",
                "Input should be greater than or equal to -1", *request.truncate_prompt_tokens);
  }
}

void check_sampling_request(const SamplingRequest& request, const Json& body) {
  const auto options = body.find("stream_options");
  if (options != body.end() && !options->is_null() && !request.stream) {
    throw parameter_error("Stream options can only be defined when `stream=True`.",
                          "stream_options", *options);
  }
  check_logprob_fields(request);
  check_words(request, body);
  if (request.allowed_token_ids && request.allowed_token_ids->empty()) {
    throw ApiError(400, "allowed_token_ids is not None and empty!", "allowed_token_ids");
  }
  if (request.cache_salt.size() > kMaxCacheSalt ||
      request.cache_salt.find_first_of(std::string_view("@/\\\0", 4)) != std::string::npos) {
    throw ApiError(400,
                   "`cache_salt` must have at most 128 characters and no '@', '/', '\\' or NUL.",
                   "cache_salt");
  }
  if (request.request_id.size() > kMaxRequestId) {
    throw ApiError(400, fmt::format("`request_id` can have at most {} bytes.", kMaxRequestId),
                   "request_id");
  }
  refuse_unsupported(body);
}

}  // namespace quern::server
