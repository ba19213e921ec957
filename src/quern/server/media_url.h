// What a media URL of a request is, and the bytes of a data: URL.
// Must never trust the media type that the URL names, nor accept base64 that is not exact.
// Proved by tests/server/media_url_test.cc.
#pragma once

#include <string>
#include <string_view>

namespace quern::server {

enum class MediaScheme { kData, kHttp, kFile };

// By the scheme alone, in any case. Throws ApiError (400) for all others.
MediaScheme media_scheme(std::string_view url);

// The bytes of "data:[TYPE][;...];base64,DATA". Throws ApiError: 501 when it is not base64, 400
// when it is malformed.
std::string decode_data_url(std::string_view url);

// RFC 4648, section 4: its alphabet only, with padding, no bits left over. Throws ApiError (400).
std::string decode_base64(std::string_view text);

}  // namespace quern::server
