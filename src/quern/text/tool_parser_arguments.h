// Turns the parameters of one tool call into the pieces of its `arguments` text.
// Must never emit pieces that do not join to one JSON object.
// Proved by tests/text/tool_parser_test.cc.
#pragma once

#include <string>
#include <string_view>
#include <unordered_map>

#include "quern/text/tool_parser_body.h"

namespace quern {

enum class ArgumentStreaming {
  // One piece when the call ends, as vLLM does. Exact: what comes later in a call can change what
  // an
  // earlier parameter becomes (a repeated name makes a list, a child element an object, a missing
  // closing tag drops it).
  kWhole,
  // A parameter that the schema says is a string is sent as its text arrives, others at their
  // closing
  // tags. The same text as kWhole for a call whose parameters are all closed, distinct, and without
  // child elements in strings. Otherwise: a parameter that turned out different is sent again at
  // the
  // end under the same name (JSON readers take the last one), and a string that was cut off by the
  // end
  // of the output or by a malformed tag stays as far as it came.
  kEager,
};

class ArgumentWriter {
 public:
  // `parameters` is the tool's schema or null; it must outlive the writer.
  ArgumentWriter(ArgumentStreaming mode, const Json* parameters)
      : mode_(mode), parameters_(parameters) {}

  void update(const InvokeBody& body, std::string& out);  // after any change of `body`
  void finish(const InvokeBody& body, std::string& out);

 private:
  void begin_member(std::string_view name, std::string& out);
  void write_text(const std::string& text, std::string& out);
  void end_text(std::string& out);
  void write_closed(const Element& parameter, std::string& out);
  void write_open(const Element& parameter, std::string& out);
  void resend(const std::vector<Element>& parameters, std::string& out);

  ArgumentStreaming mode_;
  const Json* parameters_;
  bool any_member_ = false;
  bool any_resend_ = false;
  bool in_text_ = false;         // the text of an open string parameter is being sent
  std::size_t sent_bytes_ = 0;   // of that text
  std::size_t closed_seen_ = 0;  // parameters of the body that are dealt with
  std::unordered_map<std::string, bool>
      sent_;  // by name: whether the final value must be sent again
};

}  // namespace quern
