// From a chat request to a plan, for every route that takes messages.
// Must never hold a thread while media are on their way, nor let pictures or grammars delay
// requests without. Proved by tests/server/image_e2e_test.cc.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <functional>

#include "quern/server/chat_answer.h"
#include "quern/server/chat_request.h"
#include "quern/server/routes.h"

namespace quern::server {

// Compiles the form of the answer, if it has one that is not known yet. Throws ApiError.
boost::asio::awaitable<void> prepare_grammar(ApiContext& api, GenerationPlan& plan);

// `read` makes the request (on the pool; what it refers to is held by the waiting coroutine); the
// body of `exchange` is released behind it. The
// media of the messages are loaded, unless the client of `exchange` goes meanwhile; then the plan
// is made, its grammar too. Throws ApiError.
boost::asio::awaitable<ChatPlan> prepare_chat(ApiContext& api, HttpExchange& exchange,
                                              std::function<ChatRequest()> read);

}  // namespace quern::server
