// See tool_parser.h.
#include "quern/text/tool_parser.h"

#include <algorithm>
#include <utility>

#include "quern/text/reasoning_parser.h"
#include "quern/text/tool_parser_python.h"

namespace quern {
namespace {

constexpr std::string_view kBlockStart = "]<]minimax[>[<tool_call>";
constexpr std::string_view kInvokeStart = "]<]minimax[>[<invoke name=";
// After the namespace marker:
constexpr std::string_view kInvokeStartTag = "<invoke name=";
constexpr std::string_view kInvokeEndTag = "</invoke>";

// Where '>' stands in the namespace marker: a tag that ends there was interrupted by a new one.
constexpr std::size_t kNamespaceClose = kToolNamespace.find('>');

// The name in what follows `<invoke name=`, up to '>': quoted with " or ', or bare.
std::string_view invoke_name(std::string_view header) {
  const auto is_quote = [](char c) { return c == '"' || c == '\''; };
  if (!header.empty() && is_quote(header.front())) header.remove_prefix(1);
  if (!header.empty() && is_quote(header.back())) header.remove_suffix(1);
  return python::strip(header);
}

}  // namespace

ToolCallParser::ToolCallParser(Json tools, ArgumentStreaming streaming)
    : ToolCallParser(std::make_shared<const Json>(std::move(tools)), streaming) {}

ToolCallParser::ToolCallParser(std::shared_ptr<const Json> tools, ArgumentStreaming streaming)
    : tools_(std::move(tools)), streaming_(streaming) {}

std::vector<ToolEvent> ToolCallParser::feed(std::string_view text) {
  buffer_ += text;
  while (step()) {
  }
  buffer_.erase(0, std::exchange(cursor_, 0));
  return std::exchange(events_, {});
}

std::vector<ToolEvent> ToolCallParser::finish() {
  if (state_ == State::kContent) emit(ToolEvent::Kind::kContent, 0, buffer_);
  if (state_ == State::kArguments) end_call();
  buffer_.clear();
  tag_scanned_ = 0;
  state_ = State::kBetween;
  return std::exchange(events_, {});
}

// One transition; false when more text is needed.
bool ToolCallParser::step() {
  switch (state_) {
    case State::kContent:
      return step_content();
    case State::kBetween:
      return step_between();
    case State::kName:
      return step_name();
    case State::kArguments:
      return step_arguments();
  }
  return false;
}

void ToolCallParser::consume(std::size_t bytes) {
  cursor_ += bytes;
  tag_scanned_ = 0;
}

// Bytes before `marker`; without one (false), before the suffix that could become it.
bool ToolCallParser::skip_to(std::string_view marker, std::size_t& skipped) {
  const std::string_view text = rest();
  const std::size_t found = text.find(marker);
  const bool complete = found != std::string_view::npos;
  skipped = complete ? found : text.size() - held_suffix(text, marker);
  return complete;
}

bool ToolCallParser::step_content() {
  std::size_t size = 0;
  const bool complete = skip_to(kBlockStart, size);
  emit(ToolEvent::Kind::kContent, 0, rest().substr(0, size));
  consume(size);
  if (!complete) return false;
  consume(kBlockStart.size());
  state_ = State::kBetween;
  return true;
}

bool ToolCallParser::step_between() {
  std::size_t size = 0;
  const bool complete = skip_to(kInvokeStart, size);
  consume(size);
  if (!complete) return false;
  consume(kInvokeStart.size());
  state_ = State::kName;
  return true;
}

bool ToolCallParser::step_name() {
  std::size_t end = 0;
  bool interrupted = false;
  if (!find_tag_end(0, end, interrupted)) return false;
  if (interrupted) {
    state_ = State::kBetween;
  } else {
    begin_call(rest().substr(0, end++));
    state_ = State::kArguments;
  }
  consume(end);
  return true;
}

bool ToolCallParser::step_arguments() {
  std::size_t size = 0;
  const bool complete = skip_to(kToolNamespace, size);
  if (size > 0 && call_) {
    call_->body.text(rest().substr(0, size));
    update_arguments();
  }
  if (size > 0) consume(size);
  return complete && step_tag();
}

// rest() begins with the namespace marker.
bool ToolCallParser::step_tag() {
  const std::string_view tag = rest().substr(kToolNamespace.size());
  if (tag.empty()) return false;
  if (tag.front() != '<') {
    if (call_) call_->body.bare_marker();
    update_arguments();
    consume(kToolNamespace.size());
    return true;
  }
  if (tag.starts_with(kInvokeEndTag)) {
    end_call();
    consume(kToolNamespace.size() + kInvokeEndTag.size());
    state_ = State::kBetween;
    return true;
  }
  if (tag.starts_with(kInvokeStartTag)) {
    end_call();
    consume(kInvokeStart.size());
    state_ = State::kName;
    return true;
  }
  const std::size_t begin = kToolNamespace.size() + 1;
  std::size_t end = 0;
  bool interrupted = false;
  if (!find_tag_end(begin, end, interrupted)) return false;
  if (call_) {
    if (interrupted) {
      call_->body.break_off();
    } else {
      call_->body.tag(rest().substr(begin, end - begin));
    }
    update_arguments();
  }
  consume(interrupted ? end : end + 1);
  return true;
}

// The first '>' at or after `from`, relative to the cursor; if it belongs to a namespace marker,
// which interrupts the tag, the marker's begin.
bool ToolCallParser::find_tag_end(std::size_t from, std::size_t& end, bool& interrupted) {
  const std::string_view text = rest();
  end = text.find('>', std::max(from, tag_scanned_));
  if (end == std::string_view::npos) {
    tag_scanned_ = text.size();
    return false;
  }
  interrupted = false;
  if (end < from + kNamespaceClose) return true;
  const std::size_t begin = end - kNamespaceClose;
  const std::string_view marker = text.substr(begin, kToolNamespace.size());
  if (!kToolNamespace.starts_with(marker)) return true;
  if (marker.size() < kToolNamespace.size()) return false;
  interrupted = true;
  end = begin;
  return true;
}

void ToolCallParser::begin_call(std::string_view header) {
  const std::string_view name = invoke_name(header);
  if (name.empty()) return;
  const Json* parameters = tools_ == nullptr ? nullptr : find_tool_parameters(*tools_, name);
  call_.emplace(Call{calls_++, {}, {streaming_, parameters}});
  emit(ToolEvent::Kind::kCallStart, call_->index, name);
}

void ToolCallParser::update_arguments() {
  if (!call_) return;
  std::string piece;
  call_->writer.update(call_->body, piece);
  emit(ToolEvent::Kind::kArguments, call_->index, piece);
}

void ToolCallParser::end_call() {
  if (!call_) return;
  std::string piece;
  call_->writer.finish(call_->body, piece);
  emit(ToolEvent::Kind::kArguments, call_->index, piece);
  call_.reset();
}

// Joins with the previous event where possible, so that one piece of input gives few events.
void ToolCallParser::emit(ToolEvent::Kind kind, std::size_t call, std::string_view text) {
  if (text.empty()) return;
  if (kind != ToolEvent::Kind::kCallStart && !events_.empty() && events_.back().kind == kind &&
      events_.back().call == call) {
    events_.back().text += text;
  } else {
    events_.push_back({kind, call, std::string(text)});
  }
}

}  // namespace quern
