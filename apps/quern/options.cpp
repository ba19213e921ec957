// See options.h.
#include "options.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <cmath>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/log.h"

namespace quern::cli {
namespace {

std::string with_underscores(const std::string& name) {
  std::string out = name;
  for (std::size_t i = 2; i < out.size(); ++i) out[i] = out[i] == '-' ? '_' : out[i];
  return out;
}

// Shows the spelling with dashes only.
class DashFormatter : public CLI::Formatter {
 public:
  std::string make_option_name(const CLI::Option* option, bool positional) const override {
    if (positional) return CLI::Formatter::make_option_name(option, true);
    std::string names;
    for (const std::string& name : option->get_snames()) {
      names += (names.empty() ? "-" : ", -") + name;
    }
    for (const std::string& name : option->get_lnames()) {
      if (name.find('_') != std::string::npos) continue;
      names += (names.empty() ? "--" : ", --") + name;
    }
    return names;
  }
};

// Levenshtein's distance.
std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t changed = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row[b.size()];
}

std::string folded(std::string_view text) {
  std::string out;
  for (const char c : text) {
    out += c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// Whether `value` is one of "a, b, c".
bool is_choice(const std::string& value, std::string_view choices) {
  while (!choices.empty()) {
    const std::size_t end = std::min(choices.find(','), choices.size());
    if (folded(choices.substr(0, end)) == folded(value)) return true;
    choices.remove_prefix(std::min(choices.size(), end + 2));
  }
  return false;
}

}  // namespace

void require_choice(const char* option, const std::string& value, std::string_view choices) {
  if (is_choice(value, choices)) return;
  throw UsageError("{}: unknown '{}'. Valid options are: {}", option, value, choices);
}

std::string both_spellings(const std::string& name) {
  const std::size_t start = name.find("--");
  const std::string long_name = name.substr(start);
  const std::string other = with_underscores(long_name);
  return other == long_name ? name : name + "," + other;
}

std::string with_opposite(const std::string& name) {
  const std::string opposite = "--no-" + name.substr(2);
  std::string names = both_spellings(name) + ",!" + opposite;
  if (const std::string other = with_underscores(opposite); other != opposite)
    names += ",!" + other;
  return names;
}

void prepare(CLI::App& app) {
  app.allow_extras();
  app.formatter(std::make_shared<DashFormatter>());
}

void refuse_unknown(const CLI::App& app) {
  const std::vector<std::string> extras = app.remaining();
  if (extras.empty()) return;
  const auto unknown = std::find_if(extras.begin(), extras.end(), [](const std::string& text) {
    return text.size() > 1 && text[0] == '-';
  });
  if (unknown == extras.end()) throw UsageError("unexpected argument '{}'", extras.front());
  std::string name = unknown->substr(0, unknown->find('='));
  std::replace(name.begin(), name.end(), '_', '-');
  std::string nearest;
  std::size_t best = name.size() / 2 + 1;
  for (const CLI::Option* option : app.get_options()) {
    for (const std::string& known : option->get_lnames()) {
      const std::size_t distance = edit_distance(name, "--" + known);
      if (known.find('_') != std::string::npos || distance >= best) continue;
      best = distance;
      nearest = "--" + known;
    }
  }
  throw UsageError("unknown option '{}'{}", *unknown,
                   nearest.empty() ? "" : fmt::format("; did you mean '{}'?", nearest));
}

std::int64_t parse_count(const std::string& text, std::string_view option) {
  double scale = 1;
  std::string_view digits = text;
  constexpr std::pair<char, double> kSuffixes[] = {
      {'k', 1e3}, {'m', 1e6}, {'g', 1e9}, {'K', 1024.0}, {'M', 1048576.0}, {'G', 1073741824.0}};
  for (const auto& [suffix, factor] : kSuffixes) {
    if (digits.empty() || digits.back() != suffix) continue;
    digits.remove_suffix(1);
    scale = factor;
    break;
  }
  double value = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
  const double count = std::round(value * scale);
  const bool whole = scale != 1 || value == std::trunc(value);
  if (error != std::errc() || end != digits.data() + digits.size() || !whole || count < -1 ||
      count > 9e15) {
    throw UsageError("{}: '{}' is not a count (4096, 1k, 1K, 25.6k, ...)", option, text);
  }
  return static_cast<std::int64_t>(count);
}

Json json_option(const std::string& text, const char* option) {
  if (text.empty()) return nullptr;
  Json json;
  try {
    json = parse_json(text, option);
  } catch (const Error& error) {
    throw UsageError("{}", error.what());
  }
  if (!json.is_object()) throw UsageError("{}: a JSON object is expected, got {}", option, text);
  return json;
}

AcceptedOptions::AcceptedOptions(CLI::App& app, const AcceptedOption* begin,
                                 const AcceptedOption* end) {
  for (const AcceptedOption* option = begin; option != end; ++option) {
    const std::string help =
        std::string(option->refused ? "refused: " : "accepted: ") + option->note;
    CLI::Option* parsed = option->takes_value ? app.add_option(both_spellings(option->name), help)
                                                    ->expected(1, option->refused ? 1 << 20 : 1)
                                              : app.add_flag(with_opposite(option->name), help);
    parsed->group("Accepted for compatibility");
    options_.push_back({*option, parsed});
  }
}

void AcceptedOptions::log() const {
  for (const auto& [option, parsed] : options_) {
    if (parsed->count() == 0) continue;
    const std::string value = option.takes_value ? parsed->results().front() : "";
    if (option.choices != nullptr) require_choice(option.name, value, option.choices);
    if (option.refused) {
      const bool off = option.takes_value ? value.empty() || value == "[]" : !parsed->as<bool>();
      if (off) continue;
      throw UsageError("{} is not supported: {}", option.name, option.note);
    }
    spdlog::info("{}{}{}: {}", option.name, value.empty() ? "" : " ", value, option.note);
  }
}

}  // namespace quern::cli
