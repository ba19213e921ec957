// See output_parser.h.
#include "quern/text/output_parser.h"

#include <fmt/format.h>

#include <random>
#include <utility>

#include "quern/text/tool_parser_python.h"

namespace quern {

std::string make_tool_call_id() {
  thread_local std::mt19937_64 random = [] {
    std::random_device device;
    std::seed_seq seed{device(), device(), device(), device()};
    return std::mt19937_64(seed);
  }();
  const std::uint64_t high = random();
  return fmt::format("chatcmpl-tool-{:016x}{:016x}", high, random());
}

OutputParser::OutputParser(const OutputParserOptions& options, Json tools)
    : options_(options),
      reasoning_(options.starts_in_reasoning),
      tools_(std::move(tools), options.arguments) {}

OutputParser::OutputParser(const OutputParserOptions& options, std::shared_ptr<const Json> tools)
    : options_(options),
      reasoning_(options.starts_in_reasoning),
      tools_(std::move(tools), options.arguments) {}

std::vector<OutputEvent> OutputParser::feed(std::string_view text) {
  if (options_.parse_reasoning) {
    add_reasoning(reasoning_.feed(text));
  } else {
    add_content(text);
  }
  return std::exchange(events_, {});
}

std::vector<OutputEvent> OutputParser::finish() {
  if (options_.parse_reasoning) add_reasoning(reasoning_.finish());
  if (options_.parse_tools) add_tool_events(tools_.finish());
  if (tool_calls_ == 0 && !blank_.empty()) {
    events_.push_back({OutputEvent::Kind::kContent, 0, std::exchange(blank_, {}), {}});
  }
  return std::exchange(events_, {});
}

void OutputParser::add_reasoning(ReasoningDelta delta) {
  if (!delta.reasoning.empty()) {
    events_.push_back({OutputEvent::Kind::kReasoning, 0, std::move(delta.reasoning), {}});
  }
  add_content(delta.content);
}

void OutputParser::add_content(std::string_view text) {
  if (text.empty()) return;
  if (options_.parse_tools) {
    add_tool_events(tools_.feed(text));
  } else {
    events_.push_back({OutputEvent::Kind::kContent, 0, std::string(text), {}});
  }
}

void OutputParser::add_tool_events(std::vector<ToolEvent> events) {
  for (ToolEvent& event : events) {
    switch (event.kind) {
      case ToolEvent::Kind::kContent:
        add_answer(std::move(event.text));
        break;
      case ToolEvent::Kind::kCallStart:
        ++tool_calls_;
        blank_.clear();
        events_.push_back({OutputEvent::Kind::kToolCallStart, event.call, std::move(event.text),
                           make_tool_call_id()});
        break;
      case ToolEvent::Kind::kArguments:
        events_.push_back(
            {OutputEvent::Kind::kToolArguments, event.call, std::move(event.text), {}});
        break;
    }
  }
}

void OutputParser::add_answer(std::string text) {
  if (!content_begun_) {
    const std::size_t checked = blank_.size() - blank_tail_bytes_;
    blank_ += text;
    const std::string_view rest = python::lstrip(std::string_view(blank_).substr(checked));
    blank_tail_bytes_ = rest.size();
    if (rest.empty() || python::is_partial_space(rest)) return;
    text = std::exchange(blank_, {});
    content_begun_ = true;
  }
  events_.push_back({OutputEvent::Kind::kContent, 0, std::move(text), {}});
}

void append_events(ParsedOutput& output, const std::vector<OutputEvent>& events) {
  const auto append = [](std::optional<std::string>& to, const std::string& text) {
    if (!text.empty()) to ? * to += text : to.emplace(text);
  };
  for (const OutputEvent& event : events) {
    switch (event.kind) {
      case OutputEvent::Kind::kReasoning:
        append(output.reasoning, event.text);
        break;
      case OutputEvent::Kind::kContent:
        append(output.content, event.text);
        break;
      case OutputEvent::Kind::kToolCallStart:
        output.tool_calls.push_back({event.tool_call_id, event.text, {}});
        break;
      case OutputEvent::Kind::kToolArguments:
        output.tool_calls[event.tool_index].arguments += event.text;
        break;
    }
  }
}

ParsedOutput parse_output(std::string_view text, const OutputParserOptions& options, Json tools) {
  OutputParser parser(options, std::move(tools));
  ParsedOutput output;
  append_events(output, parser.feed(text));
  append_events(output, parser.finish());
  return output;
}

}  // namespace quern
