// The description of the API at /openapi.json (OpenAPI 3.1), made from the table of routes and the
// tables of fields, so that it says what is read.
// Must never describe a route that is not in the table. Proved by tests/server/openapi_test.cc.
#pragma once

#include <span>
#include <string>

#include "quern/base/json.h"
#include "quern/server/routes.h"

namespace quern::server {

Json openapi_json(std::span<const Route> routes, const std::string& version);

// The media types of routes whose answers may stream.
inline const std::vector<std::string_view> kMaybeStreamed = {"application/json",
                                                             "text/event-stream"};

// Schemas of request bodies.
Json chat_schema();
Json completion_schema();
Json tokenize_schema();
Json detokenize_schema();
Json responses_schema();
Json messages_schema();
Json count_tokens_schema();

}  // namespace quern::server
