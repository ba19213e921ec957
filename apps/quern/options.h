// Helpers for the command line: names with '-' or '_', sizes with suffixes, flags of peers that
// mean nothing here, and the nearest name for one that is unknown. Must never guess: an option is
// known, accepted with a line that says what it maps to, or an error. Proved by
// tests/apps/options_test.cc.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern::cli {

// "--max-model-len" -> "--max-model-len,--max_model_len"; a short name may precede ("-m,--model").
std::string both_spellings(const std::string& name);
// A flag with its opposite: "--x" and "--no-x", both spellings.
std::string with_opposite(const std::string& name);

// The usual options of a subcommand: unknown ones are collected for refuse_unknown(), help shows
// one spelling.
void prepare(CLI::App& app);
// Throws UsageError for the first argument that no option took, with the nearest known name.
void refuse_unknown(const CLI::App& app);

// 4096, 1k (1000), 1K (1024), 25.6k, m, M, g, G. Throws UsageError naming the option.
std::int64_t parse_count(const std::string& text, std::string_view option);

// Throws UsageError unless the value is one of "a, b, c", compared without case, '-' and '_' alike.
void require_choice(const char* option, const std::string& value, std::string_view choices);

// A JSON object, or null for no text. Throws UsageError naming the option.
Json json_option(const std::string& text, const char* option);

// An option of a peer that has no meaning here.
struct AcceptedOption {
  const char* name;
  bool takes_value;
  const char* note;  // what it maps to, or why it is refused
  // Valid values, "a, b, c"; compared without case, '-' and '_' alike. nullptr = any.
  const char* choices = nullptr;
  bool refused = false;  // it would change answers: an error instead of a line
};
// Holds what was given of a table of them.
class AcceptedOptions {
 public:
  AcceptedOptions(CLI::App& app, const AcceptedOption* begin, const AcceptedOption* end);
  // One log line for each that was given. Throws UsageError for a value that is not of the choices,
  // and for an option that is refused.
  void log() const;

 private:
  struct Given {
    AcceptedOption option;
    CLI::Option* parsed;
  };
  std::vector<Given> options_;
};

}  // namespace quern::cli
