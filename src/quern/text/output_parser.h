// Turns the text of one answer of MiniMax-M3 into reasoning, content and tool calls, piece by
// piece. Must never lose text, throw on model output, or depend on where the text is cut. Proved by
// tests/text/output_parser_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/reasoning_parser.h"
#include "quern/text/tool_parser.h"

namespace quern {

struct OutputParserOptions {
  bool parse_reasoning = true;
  bool starts_in_reasoning = false;  // see starts_in_reasoning() in reasoning_parser.h
  bool parse_tools = true;           // otherwise tool call markup is content
  ArgumentStreaming arguments = ArgumentStreaming::kWhole;
};

struct OutputEvent {
  enum class Kind { kReasoning, kContent, kToolCallStart, kToolArguments };

  Kind kind = Kind::kContent;
  std::size_t tool_index = 0;  // for kToolCallStart and kToolArguments
  std::string text;            // a piece of text or arguments, or the tool's name
  std::string tool_call_id;    // for kToolCallStart
};

// "chatcmpl-tool-" and 32 random hex digits, as vLLM's make_tool_call_id.
std::string make_tool_call_id();

// Tool calls are looked for in the content only, never in reasoning. With `parse_tools`, white
// space at the start of the content is held until other content follows (or the end), and dropped
// when a tool call comes first: blank content before a call is no content. Not thread safe.
class OutputParser {
 public:
  OutputParser(const OutputParserOptions& options, Json tools);
  // The same tools for many parsers; null when there are none.
  OutputParser(const OutputParserOptions& options, std::shared_ptr<const Json> tools);

  std::vector<OutputEvent> feed(std::string_view text);
  std::vector<OutputEvent> finish();

  bool reasoning_ended() const { return !options_.parse_reasoning || reasoning_.reasoning_ended(); }
  std::size_t tool_calls() const { return tool_calls_; }

 private:
  void add_reasoning(ReasoningDelta delta);
  void add_content(std::string_view text);
  void add_tool_events(std::vector<ToolEvent> events);
  void add_answer(std::string text);

  OutputParserOptions options_;
  ReasoningParser reasoning_;
  ToolCallParser tools_;
  std::size_t tool_calls_ = 0;
  bool content_begun_ = false;
  std::string blank_;                 // white space before the content
  std::size_t blank_tail_bytes_ = 0;  // at its end: a cut-off character
  std::vector<OutputEvent> events_;
};

struct ParsedToolCall {
  std::string id;
  std::string name;
  std::string arguments;  // JSON text

  bool operator==(const ParsedToolCall&) const = default;
};

// Null where there is none: an empty string is none.
struct ParsedOutput {
  std::optional<std::string> reasoning;
  std::optional<std::string> content;
  std::vector<ParsedToolCall> tool_calls;
};

// Collects events into the message they describe.
void append_events(ParsedOutput& output, const std::vector<OutputEvent>& events);

ParsedOutput parse_output(std::string_view text, const OutputParserOptions& options, Json tools);

}  // namespace quern
