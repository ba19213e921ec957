// Splits MiniMax-M3 output into reasoning and content at <mm:think> ... </mm:think>, piece by
// piece. Must never search the prompt for markers (the system block contains them) nor lose held
// text. Proved by tests/text/reasoning_parser_test.cc.
#pragma once

#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern {

inline constexpr std::string_view kThinkStart = "<mm:think>";
inline constexpr std::string_view kThinkEnd = "</mm:think>";

// Whether the model's first token is already reasoning: `template_kwargs` are the merged template
// arguments (server defaults under the request's own), `prompt` is the rendered prompt, of which
// only the very end counts (vLLM issue 46042).
bool starts_in_reasoning(const Json& template_kwargs, std::string_view prompt);

// How many bytes at the end of `text` could be the beginning of `marker`.
std::size_t held_suffix(std::string_view text, std::string_view marker);

// The text that one piece released.
struct ReasoningDelta {
  std::string reasoning;
  std::string content;

  bool operator==(const ReasoningDelta&) const = default;
};

// The rules are those of vLLM's non-streaming minimax_m3 reasoning parser, made independent of
// where the text is cut: the first <mm:think> begins reasoning even after content. In a stream that
// starts in reasoning a <mm:think> is dropped at the very beginning and is text later (there the
// non-streaming parser would turn text that is already sent into content). Not thread safe.
class ReasoningParser {
 public:
  explicit ReasoningParser(bool starts_in_reasoning) : starts_in_reasoning_(starts_in_reasoning) {}

  ReasoningDelta feed(std::string_view text);
  ReasoningDelta finish();  // releases what was held as a possible marker

  // Content has begun, and the text is not inside reasoning: stop strings and grammars apply.
  bool reasoning_ended() const;

 private:
  enum class State { kStart, kBefore, kReasoning, kAfter };

  bool step(ReasoningDelta& delta);
  bool split_at(std::string_view marker, std::string& released);

  bool starts_in_reasoning_;
  bool content_seen_ = false;
  State state_ = State::kStart;
  std::string buffer_;
};

}  // namespace quern
