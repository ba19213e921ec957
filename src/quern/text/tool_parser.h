// Finds MiniMax-M3 tool calls in the content of an answer, piece by piece.
// Must never throw or take more than linear time, whatever the model writes.
// Proved by tests/text/tool_parser_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/tool_parser_arguments.h"
#include "quern/text/tool_parser_body.h"

namespace quern {

// Precedes every tag of the tool call markup.
inline constexpr std::string_view kToolNamespace = "]<]minimax[>[";

struct ToolEvent {
  enum class Kind { kContent, kCallStart, kArguments };

  Kind kind = Kind::kContent;
  std::size_t call = 0;  // counts the calls of the answer from 0; not for kContent
  std::string text;      // content, the name of the tool, or a piece of its arguments

  bool operator==(const ToolEvent&) const = default;
};

// The grammar and the salvage rules are those of vllm/parser/minimax_m3.py:
//   content NS<tool_call> (space* NS<invoke name="NAME"> body NS</invoke>)* NS</tool_call> dropped
// with these additions, each for output that models were seen to write:
//   - a first parameter without its opening tag (see tool_parser_body.h);
//   - an <invoke name= inside an invoke ends the unfinished call and begins the next one;
//   - a call whose name is blank or never ends is no call.
// The joined text of the events does not depend on where the input is cut. Not thread safe.
class ToolCallParser {
 public:
  // `tools`: the "tools" of the request; null when there are none.
  explicit ToolCallParser(Json tools, ArgumentStreaming streaming = ArgumentStreaming::kWhole);
  // The same tools for many parsers; null when there are none.
  explicit ToolCallParser(std::shared_ptr<const Json> tools,
                          ArgumentStreaming streaming = ArgumentStreaming::kWhole);
  ToolCallParser(ToolCallParser&&) = default;
  ToolCallParser& operator=(ToolCallParser&&) = default;

  std::vector<ToolEvent> feed(std::string_view text);
  // Releases held content, or ends an unfinished call with the parameters that are complete.
  std::vector<ToolEvent> finish();

 private:
  enum class State { kContent, kBetween, kName, kArguments };

  struct Call {
    std::size_t index;
    InvokeBody body;
    ArgumentWriter writer;
  };

  std::string_view rest() const { return std::string_view(buffer_).substr(cursor_); }
  void consume(std::size_t bytes);
  bool step();
  bool step_content();
  bool step_between();
  bool step_name();
  bool step_arguments();
  bool step_tag();
  bool find_tag_end(std::size_t from, std::size_t& end, bool& interrupted);
  bool skip_to(std::string_view marker, std::size_t& skipped);
  void begin_call(std::string_view header);
  void update_arguments();
  void end_call();
  void emit(ToolEvent::Kind kind, std::size_t call, std::string_view text);

  std::shared_ptr<const Json> tools_;  // may be null
  ArgumentStreaming streaming_;
  State state_ = State::kContent;
  std::string buffer_;
  std::size_t cursor_ = 0;       // of buffer_: what lies before is dealt with
  std::size_t tag_scanned_ = 0;  // bytes after cursor_ known to hold no tag end
  std::size_t calls_ = 0;
  std::optional<Call> call_;  // none while a call without a name is skipped
  std::vector<ToolEvent> events_;
};

}  // namespace quern
