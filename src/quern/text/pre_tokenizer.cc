// See pre_tokenizer.h.
#include "quern/text/pre_tokenizer.h"

#include <algorithm>
#include <array>
#include <utility>

#include "quern/base/error.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

constexpr int kMaxNesting = 8;
// The regex of ByteLevel with use_regex (GPT-2's).
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr std::string_view kEveryPiece = R"(\A\z)";  // matches no piece: the step cuts nothing

bool flag_or(const Json& config, const char* key, bool fallback) {
  const auto it = config.find(key);
  if (it == config.end()) return fallback;
  if (!it->is_boolean()) throw Error("pre_tokenizer.{}: expected true or false", key);
  return it->get<bool>();
}

Regex split_pattern(const Json& config) {
  const Json pattern = config.value("pattern", Json());
  if (pattern.is_object() && pattern.size() == 1 && pattern.front().is_string()) {
    const auto& text = pattern.front().get_ref<const std::string&>();
    if (pattern.contains("Regex")) return Regex::compile(text);
    if (pattern.contains("String")) return Regex::literal(text);
  }
  throw Error("pre_tokenizer Split: expected a pattern {{\"Regex\": ...}} or {{\"String\": ...}}");
}

}  // namespace

PreTokenizer::PreTokenizer(const Json& config) { add_step(config, true, 0); }

bool PreTokenizer::drops_text() const {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.behavior == Behavior::kRemoved; });
}

void PreTokenizer::add_step(const Json& config, bool last, int depth) {
  const Json type = config.is_object() ? config.value("type", Json()) : Json();
  if (type == "Sequence" && depth < kMaxNesting) {
    const auto list = config.find("pretokenizers");
    if (list == config.end() || !list->is_array() || list->empty()) {
      throw Error("pre_tokenizer Sequence: expected an array 'pretokenizers' that is not empty");
    }
    for (std::size_t i = 0; i < list->size(); ++i) {
      add_step((*list)[i], last && i + 1 == list->size(), depth + 1);
    }
    return;
  }
  if ((type == "ByteLevel") != last) {
    throw Error("pre_tokenizer: expected ByteLevel as the last step and only there, found {}",
                last ? type.dump() : "it earlier");
  }
  if (type == "Split") return add_split(config);
  if (type == "ByteLevel") return add_byte_level(config);
  if (type == "Digits") {
    const bool each = flag_or(config, "individual_digits", false);
    steps_.push_back({.regex = Regex::compile("\\p{N}"),
                      .behavior = each ? Behavior::kIsolated : Behavior::kContiguous,
                      .invert = false});
    return;
  }
  throw Error("pre_tokenizer: {} is not supported", config.dump());
}

void PreTokenizer::add_split(const Json& config) {
  steps_.push_back({.regex = split_pattern(config),
                    .behavior = behavior(config.value("behavior", Json())),
                    .invert = flag_or(config, "invert", false)});
}

void PreTokenizer::add_byte_level(const Json& config) {
  const bool use_regex = flag_or(config, "use_regex", true);
  steps_.push_back({.prefix_space = flag_or(config, "add_prefix_space", true),
                    .regex = Regex::compile(use_regex ? kGpt2Pattern : kEveryPiece),
                    .behavior = Behavior::kIsolated,
                    .invert = false});
}

PreTokenizer::Behavior PreTokenizer::behavior(const Json& name) {
  static constexpr std::array<std::pair<std::string_view, Behavior>, 5> kNames = {
      {{"Removed", Behavior::kRemoved},
       {"Isolated", Behavior::kIsolated},
       {"MergedWithPrevious", Behavior::kMergedWithPrevious},
       {"MergedWithNext", Behavior::kMergedWithNext},
       {"Contiguous", Behavior::kContiguous}}};
  for (const auto& [text, value] : kNames) {
    if (name == text) return value;
  }
  throw Error("pre_tokenizer Split: unknown behavior {}", name.dump());
}

PreTokenizer::Run::Run(const PreTokenizer& pre_tokenizer) : pre_tokenizer_(pre_tokenizer) {
  for (const Step& step : pre_tokenizer.steps_) matchers_.emplace_back(step.regex);
}

const std::vector<std::string_view>& PreTokenizer::Run::split(std::string_view text) {
  pieces_.assign(1, text);
  for (std::size_t i = 0; i < matchers_.size(); ++i) {
    const Step& step = pre_tokenizer_.steps_[i];
    next_.clear();
    for (std::string_view piece : pieces_) {
      if (step.prefix_space && piece.front() != ' ') {
        piece = prefixed_.emplace_back(fmt::format(" {}", piece));
      }
      cut(step, matchers_[i], piece, next_);
    }
    std::swap(pieces_, next_);
  }
  return pieces_;
}

// Joins two neighbours: both are views of the same text, one behind the other.
static std::string_view joined(std::string_view left, std::string_view right) {
  return {left.data(), left.size() + right.size()};
}

void PreTokenizer::cut(const Step& step, Regex::Matcher& matcher, std::string_view piece,
                       std::vector<std::string_view>& out) {
  const std::size_t first =
      out.size();  // `out` may hold other pieces' cuts, never joined with ours
  bool last_was_match = false;
  std::string_view waiting;  // a match that waits for what follows it (kMergedWithNext)
  const auto put = [&](std::string_view text, bool is_match) {
    if (text.empty()) return;
    if (step.invert) is_match = !is_match;
    const bool has_last = out.size() > first;
    switch (step.behavior) {
      case Behavior::kIsolated:
        out.push_back(text);
        break;
      case Behavior::kRemoved:
        if (!is_match) out.push_back(text);
        break;
      case Behavior::kContiguous:
        if (has_last && is_match == last_was_match)
          out.back() = joined(out.back(), text);
        else
          out.push_back(text);
        break;
      case Behavior::kMergedWithPrevious:
        if (has_last && is_match && !last_was_match)
          out.back() = joined(out.back(), text);
        else
          out.push_back(text);
        break;
      case Behavior::kMergedWithNext:
        if (!waiting.empty() && is_match)
          out.push_back(std::exchange(waiting, text));
        else if (is_match)
          waiting = text;
        else
          out.push_back(waiting.empty() ? text : joined(std::exchange(waiting, {}), text));
        break;
    }
    last_was_match = is_match;
  };

  std::size_t done = 0;
  std::size_t from = 0;
  while (from <= piece.size()) {
    const auto match = matcher.find(piece, from);
    if (!match) break;
    if (match->begin ==
        match->end) {  // an empty match cuts nothing: go on behind the next character
      from = match->end;
      if (from < piece.size())
        from += scan_utf8(piece.substr(from)).length;
      else
        break;
      continue;
    }
    put(piece.substr(done, match->begin - done), false);
    put(piece.substr(match->begin, match->end - match->begin), true);
    done = from = match->end;
  }
  put(piece.substr(done), false);
  if (!waiting.empty()) out.push_back(waiting);
}

}  // namespace quern
