// Builds the parameter elements of one MiniMax-M3 invoke from its texts and tags, as they arrive.
// Must never keep an element that is not closed, nor read on after the first malformed one.
// Proved by tests/text/tool_parser_test.cc.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quern/text/tool_parser_convert.h"

namespace quern {

// Grammar (NS is the namespace marker, which the caller has already recognized):
//   body    := (space* element)*
//   element := NS"<"name">" (text | element)* NS"</"name">"
// A first parameter without its opening tag is accepted (vLLM PR 51075): `NS text NS</name>`, as
// deployed checkpoints write it, and `text NS</name>`. Its name comes from the closing tag.
class InvokeBody {
 public:
  void text(std::string_view text);
  void tag(std::string_view tag);  // "name" or "/name": what stands between NS"<" and ">"
  void bare_marker();              // NS not followed by "<"
  void break_off();                // an unreadable tag: the rest of the body is dropped

  const std::vector<Element>& parameters() const { return parameters_; }

  // The parameter that is open and has no children (so far), or null.
  const Element* open_leaf() const;
  bool broken() const { return state_ == State::kBroken; }

 private:
  enum class State { kBoundary, kElided, kElement, kBroken };

  void boundary_text(std::string_view text);
  void open(std::string_view name);
  void close();
  void close_elided(std::string_view tag);

  State state_ = State::kBoundary;
  std::string partial_space_;  // cut-off whitespace character at a boundary
  std::string elided_text_;
  std::vector<Element> open_;  // open_[0] is the parameter, the last one the innermost element
  std::vector<Element> parameters_;
};

}  // namespace quern
