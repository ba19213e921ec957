// The media parts of chat messages: which parts they are, and the URLs behind them.
// Must never leave a URL's megabytes in the messages that are rendered.
// Proved by tests/server/chat_messages_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/server/media_loader.h"

namespace quern::server {

enum class PartKind { kText, kImage, kVideo, kOther };

// By its `type`, or without one by what it holds (vLLM entrypoints/chat_utils.py).
PartKind part_kind(const Json& part);

// Of image and video parts in all messages.
int count_parts(const Json& messages, PartKind kind);

// An image or video of a request.
struct MediaItem {
  PartKind kind = PartKind::kImage;
  bool has_url = false;  // else only the uuid was given
  std::string url;
  std::string uuid;  // the client's name for it, in place of its content in caches; may be ""
  Media media;       // what the URL led to, once it was loaded
};

// The image and video parts, in order, their URLs moved out of `messages`. Throws ApiError (400)
// naming the message of a part that has neither URL nor uuid.
std::vector<MediaItem> take_media(Json& messages);

// Between take_media() and the loader: the URLs that are there, and their media put in place.
std::vector<std::string> take_urls(std::vector<MediaItem>& items);
void put_media(std::vector<Media> media, std::vector<MediaItem>& items);

}  // namespace quern::server
