// The harness's grammar of --model_args, --gen_kwargs and --seed, typed.
// Must never treat an unknown model argument as known: it is an error that lists the known ones.
// Proved by tests/eval/evaluator_test.cc.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"

namespace quern {

// Either one JSON object, or key=value pairs separated by commas and by being separate arguments.
// `option` names the option in errors and warnings. A repeated key: the later one wins, with a
// warning.
Json parse_key_values(const std::vector<std::string>& arguments, const std::string& option);

// python, numpy, torch, few-shot; "None" is empty. One value stands for all four.
using Seeds = std::array<std::optional<std::int64_t>, 4>;
Seeds parse_seeds(const std::string& text);

// Number of rows of --limit: 0 < limit < 1 is a share, rounded up.
std::size_t limited_rows(std::optional<double> limit, std::size_t rows);

// Arguments of models "local-chat-completions" and "local-completions", and of "quern" as far as
// they make sense in process.
struct ModelArguments {
  std::string model;  // the name that is sent
  std::string base_url;
  std::size_t num_concurrent = 1;
  int max_retries = 3;  // attempts in total
  double timeout_seconds = 300;
  std::int64_t max_gen_toks = 256;
  std::int64_t seed = 1234;
  std::int64_t max_length = 2048;  // tokens of a prompt and its continuation; cut on the left
  std::string tokenizer;           // directory of tokenizer.json, for local-completions
  bool tokenized_requests = true;  // local-completions sends tokens, else text
  std::optional<std::int64_t> custom_prefix_token_id;  // stands for an empty prompt
  std::optional<std::string> eos_string;
  std::optional<std::string> think_end_token;
  bool verify_certificate = true;
  std::optional<std::string> ca_cert_path;
  std::optional<std::vector<std::pair<std::string, std::string>>> header;  // replaces Authorization
};

// True for what parse_model_arguments() reads, and for the harness's names that mean nothing here.
bool is_evaluation_argument(std::string_view key);

// Reads what both kinds of model share. In process, arguments that are not listed above belong to
// the engine and are left to it.
ModelArguments parse_model_arguments(const Json& arguments, bool in_process);

}  // namespace quern
