#include "quern/engine/stop_text.h"

#include <algorithm>

#include "quern/base/error.h"

namespace quern::engine {
namespace {

// Length of the longest end of `text` that is a proper beginning of `marker`.
std::size_t partial_suffix(std::string_view text, std::string_view marker) {
  for (std::size_t size = std::min(text.size(), marker.size() - 1); size > 0; --size) {
    if (text.ends_with(marker.substr(0, size))) return size;
  }
  return 0;
}

}  // namespace

StopText::StopText(const SamplingParams& params, const ReasoningFormat& reasoning)
    : stop_(params.stop), include_stop_(params.include_stop_str_in_output) {
  for (const std::string& stop : stop_) longest_ = std::max(longest_, stop.size());
  if (params.stop_in_reasoning || reasoning.start.empty() || reasoning.end.empty()) return;
  start_marker_ = reasoning.start;
  end_marker_ = reasoning.end;
  phase_ = reasoning.starts_in_reasoning ? Phase::kReasoning : Phase::kBeforeReasoning;
}

std::string StopText::push(std::string_view piece, bool may_stop) {
  QUERN_CHECK(matched_ == nullptr);
  if (stop_.empty()) return std::string(piece);
  buffer_ += piece;
  if (!may_stop) floor_ = buffer_.size();
  scan(false);
  return take(false);
}

std::string StopText::finish() {
  if (stop_.empty() || matched_ != nullptr) return {};
  scan(true);
  return take(true);
}

void StopText::scan(bool final) {
  if (phase_ == Phase::kBeforeReasoning) {
    const std::size_t marker = buffer_.find(start_marker_, scanned_);
    const bool found = marker != std::string::npos;
    const std::size_t open =
        found || final ? 0
                       : partial_suffix(std::string_view(buffer_).substr(scanned_), start_marker_);
    if (find_stop(found ? marker : buffer_.size() - open)) return;
    if (!found) return;
    enter(Phase::kReasoning, marker + start_marker_.size());
  }
  if (phase_ == Phase::kReasoning) {
    const std::size_t marker = buffer_.find(end_marker_, scanned_);
    if (marker == std::string::npos) {
      scanned_ =
          buffer_.size() - partial_suffix(std::string_view(buffer_).substr(scanned_), end_marker_);
      return;
    }
    enter(Phase::kAnswer, marker + end_marker_.size());
  }
  find_stop(buffer_.size());
}

void StopText::enter(Phase phase, std::size_t position) {
  phase_ = phase;
  segment_ = scanned_ = position;
}

// Looks for the first match that ends in (scanned_, end]; afterwards all ends up to `end` are
// decided.
bool StopText::find_stop(std::size_t end) {
  const std::size_t after = std::max(scanned_, floor_);
  const std::string_view text = std::string_view(buffer_).substr(0, end);
  std::size_t best_end = std::string::npos;
  for (const std::string& stop : stop_) {
    const std::size_t earliest = after + 1 > stop.size() ? after + 1 - stop.size() : 0;
    const std::size_t start = text.find(stop, std::max(segment_, earliest));
    if (start == std::string_view::npos || start + stop.size() >= best_end) continue;
    best_end = start + stop.size();
    matched_ = &stop;
    cut_ = include_stop_ ? best_end : start;
  }
  scanned_ = end;
  return matched_ != nullptr;
}

// Where the first match begins that is possible and not decided; the end of the text if none is.
std::size_t StopText::first_undecided() const {
  if (phase_ == Phase::kReasoning) return buffer_.size();
  const std::size_t decided = std::max(scanned_, floor_);
  const std::string_view text(buffer_);
  for (std::size_t start = std::max(segment_, shown_); start < text.size(); ++start) {
    for (const std::string& stop : stop_) {
      const std::string_view rest = text.substr(start, stop.size());
      if (start + stop.size() > decided && stop.starts_with(rest)) return start;
    }
  }
  return text.size();
}

std::string StopText::take(bool final) {
  const std::size_t end = matched_ != nullptr ? cut_ : final ? buffer_.size() : first_undecided();
  std::string text = buffer_.substr(shown_, end - shown_);
  shown_ = end;
  trim();
  return text;
}

// Drops text that is neither to be shown nor part of a possible match, in large pieces.
void StopText::trim() {
  constexpr std::size_t kPiece = 4096;
  const std::size_t kept_tail = scanned_ - std::min(scanned_, longest_);
  const std::size_t drop = std::min(shown_, kept_tail);
  if (drop < kPiece) return;
  buffer_.erase(0, drop);
  for (std::size_t* offset : {&shown_, &segment_, &scanned_, &floor_, &cut_}) {
    *offset -= std::min(*offset, drop);
  }
}

}  // namespace quern::engine
