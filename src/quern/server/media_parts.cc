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

std::vector<std::string> take_image_urls(Json& messages) {
  std::vector<std::string> urls;
  for_each_part(messages, [&](std::size_t index, Json& part) {
    if (part_kind(part) != PartKind::kImage) return;
    for (const char* key : {"image_url", "image", "url"}) {
      const auto value = part.find(key);
      Json* url = value == part.end() ? nullptr : url_in(*value);
      if (url == nullptr) continue;
      urls.push_back(std::move(url->get_ref<std::string&>()));
      part = {{"type", "image"}};
      return;
    }
    throw ApiError(400,
                   fmt::format("messages[{}]: an image part needs `image_url` with a `url`", index),
                   "messages");
  });
  return urls;
}

}  // namespace quern::server
