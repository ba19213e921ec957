// Base64 bit by bit, the plain way.
// Must never share code with the decoder it tests.
// Proved by tests/server/media_url_test.cc.
#pragma once

#include <string>
#include <string_view>

namespace quern::server::test {

inline std::string encode_base64(std::string_view bytes) {
  constexpr std::string_view kAlphabet =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  const std::size_t bits = bytes.size() * 8;
  for (std::size_t at = 0; at < bits; at += 6) {
    unsigned digit = 0;
    for (std::size_t i = at; i < at + 6; ++i) {
      const unsigned bit =
          i < bits ? static_cast<unsigned char>(bytes[i / 8]) >> (7 - i % 8) & 1U : 0U;
      digit = digit << 1 | bit;
    }
    out += kAlphabet[digit];
  }
  while (out.size() % 4 != 0) out += '=';
  return out;
}

// What the APIs take in place of an address.
inline std::string png_data_url(std::string_view bytes) {
  return "data:image/png;base64," + encode_base64(bytes);
}

}  // namespace quern::server::test
