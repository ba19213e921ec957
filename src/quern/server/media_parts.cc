// See media_parts.h.
#include "quern/server/media_parts.h"

#include <fmt/format.h>

#include <string_view>
#include <utility>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

template <typename JsonType, typename Fn>
void for_each_part(JsonType& messages, Fn&& fn) {
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!messages[i].is_object()) continue;
    const auto content = messages[i].find("content");
    if (content == messages[i].end() || !content->is_array()) continue;
    for (auto& part : *content) fn(i, part);
  }
}

// {"url": U} or U itself; nullptr when it is neither.
Json* url_in(Json& value) {
  if (value.is_string()) return &value;
  if (!value.is_object()) return nullptr;
  const auto url = value.find("url");
  return url != value.end() && url->is_string() ? &*url : nullptr;
}

// vLLM takes any string; a name that long is a mistake.
std::string uuid_of(const Json& part, std::size_t index) {
  constexpr std::size_t kMaxBytes = 1024;
  const auto uuid = part.find("uuid");
  if (uuid == part.end() || uuid->is_null()) return "";
  if (!uuid->is_string() || uuid->get_ref<const std::string&>().size() > kMaxBytes) {
    throw ApiError(
        400,
        fmt::format("messages[{}]: `uuid` must be a string of at most {} bytes", index, kMaxBytes),
        "messages");
  }
  return uuid->get<std::string>();
}

}  // namespace

PartKind part_kind(const Json& part) {
  if (part.is_string()) return PartKind::kText;
  if (!part.is_object()) return PartKind::kOther;
  const auto type = part.find("type");
  if (type == part.end() || !type->is_string()) {
    if (part.contains("text")) return PartKind::kText;
    if (part.contains("image_url")) return PartKind::kImage;
    return part.contains("video_url") ? PartKind::kVideo : PartKind::kOther;
  }
  const auto& name = type->get_ref<const std::string&>();
  if (name == "text" || name == "refusal" || name == "thinking") return PartKind::kText;
  if (name == "image_url" || name == "image" || name == "input_image") return PartKind::kImage;
  if (name == "video_url" || name == "video" || name == "input_video") return PartKind::kVideo;
  return PartKind::kOther;
}

int count_parts(const Json& messages, PartKind kind) {
  int count = 0;
  for_each_part(messages, [&](std::size_t, const Json& part) { count += part_kind(part) == kind; });
  return count;
}

std::vector<MediaItem> take_media(Json& messages) {
  std::vector<MediaItem> items;
  for_each_part(messages, [&](std::size_t index, Json& part) {
    MediaItem item;
    item.kind = part_kind(part);
    if (item.kind != PartKind::kImage && item.kind != PartKind::kVideo) return;
    const bool video = item.kind == PartKind::kVideo;
    const char* const name = video ? "video" : "image";
    const char* const field = video ? "video_url" : "image_url";
    item.uuid = uuid_of(part, index);
    for (const char* key : {field, name, "url"}) {
      const auto value = part.find(key);
      Json* url = value == part.end() ? nullptr : url_in(*value);
      if (url == nullptr) continue;
      item.has_url = true;
      item.url = std::move(url->get_ref<std::string&>());
      break;
    }
    if (!item.has_url && item.uuid.empty()) {
      throw ApiError(400,
                     fmt::format("messages[{}]: {} part needs `{}` with a `url`", index,
                                 video ? "a video" : "an image", field),
                     "messages");
    }
    part = {{"type", name}};
    items.push_back(std::move(item));
  });
  return items;
}

std::vector<std::string> take_urls(std::vector<MediaItem>& items) {
  std::vector<std::string> urls;
  for (MediaItem& item : items) {
    if (item.has_url) urls.push_back(std::move(item.url));
  }
  return urls;
}

void put_media(std::vector<Media> media, std::vector<MediaItem>& items) {
  std::size_t next = 0;
  for (MediaItem& item : items) {
    if (item.has_url) item.media = std::move(media[next++]);
  }
}

}  // namespace quern::server
