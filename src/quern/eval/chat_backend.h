// What answers the questions of an evaluation: a server over HTTP, or an engine in this process.
// Must never change a request: what is asked is decided by eval/request.h alone.
// Proved by tests/eval/evaluator_test.cc with a scripted backend.
#pragma once

#include <optional>
#include <string>

#include "quern/base/error.h"
#include "quern/base/json.h"
#include "quern/eval/sample.h"

namespace quern {

// complete() is called from many threads at once.
class ChatBackend {
 public:
  ChatBackend() = default;
  ChatBackend(const ChatBackend&) = delete;
  ChatBackend& operator=(const ChatBackend&) = delete;
  virtual ~ChatBackend() = default;

  // Everything besides the request that decides an answer: checkpoint, server, options that matter.
  // Part of the key of the answer cache. Called once, before complete().
  virtual Json identity() = 0;

  // `request` is the body of POST /v1/chat/completions (model, messages, max_tokens, temperature,
  // stop, seed and what --gen_kwargs added). The content of the answer; empty optional when the
  // model gave none (OpenAI's `content: null`). Throws Error when there is no answer at all.
  // With "prompt" in place of "messages": POST /v1/completions.
  virtual std::optional<std::string> complete(const Json& request) = 0;

  // How likely the tokens behind the prompt's are. Throws Error when this way to the model cannot
  // tell.
  virtual Loglikelihood loglikelihood(const LikelihoodTokens& tokens) {
    (void)tokens;
    throw Error("this --model cannot tell likelihoods; take local-completions or quern");
  }
};

}  // namespace quern
