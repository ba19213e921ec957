// See media_url.h. Error texts: vLLM multimodal/media/connector.py.
#include "quern/server/media_url.h"

#include <array>
#include <cstdint>

#include "quern/server/api_error.h"

namespace quern::server {
namespace {

constexpr std::uint8_t kInvalid = 64;

constexpr std::array<std::uint8_t, 256> kDigits = [] {
  std::array<std::uint8_t, 256> digits{};
  digits.fill(kInvalid);
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  for (std::size_t i = 0; i < kAlphabet.size(); ++i) {
    digits[static_cast<unsigned char>(kAlphabet[i])] = static_cast<std::uint8_t>(i);
  }
  return digits;
}();

[[noreturn]] void fail_base64(const char* what) {
  throw ApiError(400, std::string("The data URL does not hold valid base64: ") + what + ".");
}

bool starts_with_scheme(std::string_view url, std::string_view scheme) {
  if (url.size() < scheme.size()) return false;
  for (std::size_t i = 0; i < scheme.size(); ++i) {
    const char c = url[i] >= 'A' && url[i] <= 'Z' ? static_cast<char>(url[i] - 'A' + 'a') : url[i];
    if (c != scheme[i]) return false;
  }
  return true;
}

// The last `count` (2 or 3) digits, which stand for one byte less.
void decode_tail(std::string_view digits, std::string& out) {
  std::uint32_t bits = 0;
  for (const char c : digits) {
    const std::uint8_t digit = kDigits[static_cast<unsigned char>(c)];
    if (digit == kInvalid) fail_base64("a character outside its alphabet");
    bits = bits << 6 | digit;
  }
  const std::uint32_t left_over = digits.size() == 2 ? bits & 0xF : bits & 0x3;
  if (left_over != 0) fail_base64("bits are left over at its end");
  bits >>= digits.size() == 2 ? 4 : 2;
  if (digits.size() == 3) out.push_back(static_cast<char>(bits >> 8));
  out.push_back(static_cast<char>(bits & 0xFF));
}

}  // namespace

MediaScheme media_scheme(std::string_view url) {
  if (starts_with_scheme(url, "data:")) return MediaScheme::kData;
  if (starts_with_scheme(url, "http://") || starts_with_scheme(url, "https://")) {
    return MediaScheme::kHttp;
  }
  if (starts_with_scheme(url, "file:")) return MediaScheme::kFile;
  throw ApiError(400, "The URL must be either a HTTP, data or file URL.");
}

std::string decode_base64(std::string_view text) {
  if (text.size() % 4 != 0) fail_base64("its length is not a multiple of 4");
  std::string out;
  if (text.empty()) return out;
  std::size_t padding = 0;
  while (padding < 2 && text[text.size() - 1 - padding] == '=') ++padding;
  const std::size_t whole = padding == 0 ? text.size() : text.size() - 4;
  out.reserve(text.size() / 4 * 3);
  for (std::size_t i = 0; i < whole; i += 4) {
    std::uint32_t bits = 0;
    std::uint8_t worst = 0;
    for (std::size_t k = 0; k < 4; ++k) {
      const std::uint8_t digit = kDigits[static_cast<unsigned char>(text[i + k])];
      worst = static_cast<std::uint8_t>(worst | digit);
      bits = bits << 6 | (digit & 0x3FU);
    }
    if ((worst & kInvalid) != 0) fail_base64("a character outside its alphabet");
    out.push_back(static_cast<char>(bits >> 16));
    out.push_back(static_cast<char>(bits >> 8 & 0xFF));
    out.push_back(static_cast<char>(bits & 0xFF));
  }
  if (padding > 0) decode_tail(text.substr(whole, 4 - padding), out);
  return out;
}

std::string decode_data_url(std::string_view url) {
  const std::size_t comma = url.find(',');
  if (comma == std::string_view::npos) {
    throw ApiError(400, "The data URL has no comma between its media type and its data.");
  }
  const std::string_view head = url.substr(0, comma);
  const std::size_t mark = head.rfind(';');
  if (mark == std::string_view::npos || head.substr(mark + 1) != "base64") {
    throw ApiError(501, "Only base64 data URLs are supported for now.");
  }
  std::string bytes = decode_base64(url.substr(comma + 1));
  if (bytes.empty()) throw ApiError(400, "The data URL holds no data.");
  return bytes;
}

}  // namespace quern::server
