// The image parts of chat messages: which parts they are, and the URLs behind them.
// Must never leave a URL's megabytes in the messages that are rendered.
// Proved by tests/server/chat_messages_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"

namespace quern::server {

enum class PartKind { kText, kImage, kVideo, kOther };

// By its `type`, or without one by what it holds (vLLM entrypoints/chat_utils.py).
PartKind part_kind(const Json& part);

// Of image and video parts in all messages.
int count_parts(const Json& messages, PartKind kind);

// The URLs of the image parts, in order, moved out of `messages`. Throws ApiError (400) naming the
// message of a part that has none.
std::vector<std::string> take_image_urls(Json& messages);

}  // namespace quern::server
