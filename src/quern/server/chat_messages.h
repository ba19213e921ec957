// Brings the messages of a chat request into the form that chat templates read.
// Must never hand a template a type it cannot expect (content is text or parts, arguments an
// object). Proved by tests/server/chat_messages_test.cc.
#pragma once

#include <string_view>

#include "quern/base/json.h"
#include "quern/text/chat_template.h"

namespace quern::server {

// Rules of vLLM entrypoints/chat_utils.py: text parts are joined with newlines for a template that
// wants strings, images and videos being their placeholders there, else content is a list of parts;
// reasoning stands under `reasoning` and `reasoning_content`; arguments of tool calls are objects.
// Throws ApiError (400) naming the message.
struct MediaPlaceholders {
  std::string_view image, video;
};
Json template_messages(const Json& messages, ContentFormat format,
                       const MediaPlaceholders& placeholders = {});

}  // namespace quern::server
