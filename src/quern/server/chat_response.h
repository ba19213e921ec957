// Writes chat answers as bytes: the body of an answer, the events of a stream.
// Must never change the order of keys or leave out a null that vLLM sends: clients compare.
// Proved by tests/server/chat_response_test.cc (golden bytes).
#pragma once

#include <string>

#include "quern/server/chat_answer.h"
#include "quern/text/tokenizer.h"

namespace quern::server {

struct ChatWriterOptions {
  bool prompt_tokens_details = false;  // --enable-prompt-tokens-details
};

// Both references outlive the writer.
class ChatWriter {
 public:
  ChatWriter(const ChatPlan& plan, const Tokenizer& tokenizer, ChatWriterOptions options = {});

  // The body of an answer that is not streamed.
  std::string body(const ChatCompletion& completion) const;

  // Events: "data: {...}\n\n".
  std::string role_event(int choice) const;
  std::string delta_event(const ChatDelta& delta) const;
  // Text that precedes the answer (echo).
  std::string content_event(int choice, const std::string& text) const;
  std::string usage_event(const Usage& usage) const;

 private:
  Json first_chunk(int choice, Json delta) const;
  Json chunk(Json choices) const;
  void add_usage(Json& chunk, int completion_tokens) const;

  const ChatPlan& plan_;
  const Tokenizer& tokenizer_;
  ChatWriterOptions options_;
};

}  // namespace quern::server
