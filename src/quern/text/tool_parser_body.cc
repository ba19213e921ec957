// See tool_parser_body.h.
#include "quern/text/tool_parser_body.h"

#include <utility>

#include "quern/text/tool_parser_python.h"

namespace quern {
namespace {

bool is_element_name(std::string_view name) {
  return !name.empty() && name.front() != '/' && !python::is_blank(name);
}

}  // namespace

void InvokeBody::text(std::string_view text) {
  switch (state_) {
    case State::kBoundary:
      boundary_text(text);
      break;
    case State::kElided:
      elided_text_ += text;
      break;
    case State::kElement:
      open_.back().text += text;
      break;
    case State::kBroken:
      break;
  }
}

void InvokeBody::boundary_text(std::string_view text) {
  std::string joined = std::exchange(partial_space_, {});
  joined += text;
  const std::string_view rest = python::lstrip(joined);
  if (rest.empty()) return;
  if (python::is_partial_space(rest)) {
    partial_space_ = rest;
  } else if (parameters_.empty()) {
    state_ = State::kElided;
    elided_text_ = rest;
  } else {
    break_off();
  }
}

void InvokeBody::bare_marker() {
  if (state_ == State::kBoundary && parameters_.empty() && partial_space_.empty()) {
    state_ = State::kElided;
  } else {
    break_off();
  }
}

void InvokeBody::tag(std::string_view tag) {
  switch (state_) {
    case State::kBoundary:
      partial_space_.empty() ? open(tag) : break_off();
      break;
    case State::kElided:
      close_elided(tag);
      break;
    case State::kElement:
      if (tag.starts_with('/') && tag.substr(1) == open_.back().name) {
        close();
      } else {
        open(tag);
      }
      break;
    case State::kBroken:
      break;
  }
}

void InvokeBody::break_off() {
  state_ = State::kBroken;
  open_.clear();
  elided_text_.clear();
}

void InvokeBody::open(std::string_view name) {
  if (!is_element_name(name) || open_.size() >= kMaxElementDepth) return break_off();
  open_.push_back({std::string(name), {}, {}});
  state_ = State::kElement;
}

void InvokeBody::close() {
  Element element = std::move(open_.back());
  open_.pop_back();
  (open_.empty() ? parameters_ : open_.back().children).push_back(std::move(element));
  if (open_.empty()) state_ = State::kBoundary;
}

// The end of the block is no parameter's closing tag.
void InvokeBody::close_elided(std::string_view tag) {
  if (!tag.starts_with('/') || !is_element_name(tag.substr(1)) || tag == "/tool_call") {
    return break_off();
  }
  parameters_.push_back({std::string(tag.substr(1)), std::exchange(elided_text_, {}), {}});
  state_ = State::kBoundary;
}

const Element* InvokeBody::open_leaf() const {
  return open_.size() == 1 && open_.front().children.empty() ? &open_.front() : nullptr;
}

}  // namespace quern
