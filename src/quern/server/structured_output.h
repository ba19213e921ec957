// The fields of a request that say what an answer has to look like: response_format,
// structured_outputs and the older guided_*.
// Must never ignore a constraint: what is not supported is refused by name.
// Proved by tests/server/structured_output_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "quern/base/json.h"
#include "quern/grammar/structured_output.h"

namespace quern::server {

// Of a body whose other fields are checked elsewhere. Null when the answer is free. Throws ApiError
// with vLLM's texts.
std::shared_ptr<const grammar::StructuredOutput> read_structured_output(const Json& body);

// What `tool_choice` ("auto", "none", "required", "named") asks of the answer. `tools` with their
// references resolved.
std::optional<grammar::StructuredOutput> tool_output(const Json& tools, const std::string& choice,
                                                     const Json& tool_choice, bool parallel);

}  // namespace quern::server
