// See reasoning_parser.h.
#include "quern/text/reasoning_parser.h"

#include <algorithm>
#include <utility>

namespace quern {

bool starts_in_reasoning(const Json& template_kwargs, std::string_view prompt) {
  if (prompt.ends_with(kThinkStart)) return true;
  if (!template_kwargs.is_object()) return false;
  const auto mode = template_kwargs.find("thinking_mode");
  return mode != template_kwargs.end() && mode->is_string() &&
         mode->get_ref<const std::string&>() == "enabled";
}

std::size_t held_suffix(std::string_view text, std::string_view marker) {
  for (std::size_t size = std::min(text.size(), marker.size() - 1); size > 0; --size) {
    if (marker.starts_with(text.substr(text.size() - size))) return size;
  }
  return 0;
}

ReasoningDelta ReasoningParser::feed(std::string_view text) {
  ReasoningDelta delta;
  buffer_ += text;
  while (step(delta)) {
  }
  content_seen_ |= !delta.content.empty();
  return delta;
}

ReasoningDelta ReasoningParser::finish() {
  const bool reasoning =
      state_ == State::kReasoning || (state_ == State::kStart && starts_in_reasoning_);
  ReasoningDelta delta;
  (reasoning ? delta.reasoning : delta.content) = std::exchange(buffer_, {});
  content_seen_ |= !delta.content.empty();
  return delta;
}

bool ReasoningParser::reasoning_ended() const {
  return state_ == State::kAfter || (state_ == State::kBefore && content_seen_);
}

// One transition; false when more text is needed.
bool ReasoningParser::step(ReasoningDelta& delta) {
  switch (state_) {
    case State::kStart: {
      const std::string_view leading = starts_in_reasoning_ ? kThinkStart : kThinkEnd;
      if (buffer_.starts_with(leading)) {
        buffer_.erase(0, leading.size());
        state_ = starts_in_reasoning_ ? State::kReasoning : State::kAfter;
        return true;
      }
      if (leading.starts_with(buffer_)) return false;
      state_ = starts_in_reasoning_ ? State::kReasoning : State::kBefore;
      return true;
    }
    case State::kBefore:
      if (!split_at(kThinkStart, delta.content)) return false;
      state_ = State::kReasoning;
      return true;
    case State::kReasoning:
      if (!split_at(kThinkEnd, delta.reasoning)) return false;
      state_ = State::kAfter;
      return true;
    case State::kAfter:
      delta.content += buffer_;
      buffer_.clear();
      return false;
  }
  return false;
}

// Releases the text before `marker`; without one, all but a suffix that could become it.
bool ReasoningParser::split_at(std::string_view marker, std::string& released) {
  const std::size_t found = buffer_.find(marker);
  const bool complete = found != std::string::npos;
  const std::size_t end = complete ? found : buffer_.size() - held_suffix(buffer_, marker);
  released.append(buffer_, 0, end);
  buffer_.erase(0, complete ? end + marker.size() : end);
  return complete;
}

}  // namespace quern
