// Schemes, data: URLs, and base64 against a plain encoder.
#include "quern/server/media_url.h"

#include <gtest/gtest.h>

#include <functional>
#include <random>
#include <string>

#include "quern/server/api_error.h"
#include "tests/server/base64.h"

namespace quern::server {
namespace {

int status_of(const std::function<void()>& work, std::string* text = nullptr) {
  try {
    work();
  } catch (const ApiError& error) {
    if (text != nullptr) *text = error.what();
    return error.status();
  }
  return 200;
}

TEST(MediaUrl, SchemesInAnyCase) {
  EXPECT_EQ(media_scheme("data:image/png;base64,"), MediaScheme::kData);
  EXPECT_EQ(media_scheme("DATA:,"), MediaScheme::kData);
  EXPECT_EQ(media_scheme("http://h/p"), MediaScheme::kHttp);
  EXPECT_EQ(media_scheme("HTTPS://h"), MediaScheme::kHttp);
  EXPECT_EQ(media_scheme("File:///etc/passwd"), MediaScheme::kFile);
  for (const char* url : {"", "x", "ftp://h/p", "gopher://127.0.0.1", " http://h", "http:/h",
                          "javascript:alert(1)", "/etc/passwd", "httpx://h", "unix:/x"}) {
    std::string text;
    EXPECT_EQ(status_of([&] { media_scheme(url); }, &text), 400) << url;
    EXPECT_EQ(text, "The URL must be either a HTTP, data or file URL.");
  }
}

TEST(MediaUrl, DataUrls) {
  EXPECT_EQ(decode_data_url("data:image/png;base64,aGk="), "hi");
  EXPECT_EQ(decode_data_url("data:;base64,aGk="), "hi");
  EXPECT_EQ(decode_data_url("data:text/plain;charset=utf-8;base64,aGk="), "hi");
  const struct {
    const char* url;
    int status;
    const char* text;
  } rows[] = {
      {"data:image/png;base64", 400, "no comma"},
      {"data:image/png,aGk=", 501, "Only base64 data URLs are supported for now."},
      {"data:image/png;hex,00", 501, "Only base64 data URLs are supported for now."},
      {"data:image/png;base64,", 400, "no data"},
      {"data:image/png;base64,aGk", 400, "multiple of 4"},
      {"data:image/png;base64,aG k=", 400, "base64"},
      {"data:image/png;base64,aG\nk", 400, "alphabet"},
      {"data:image/png;base64,aGl=", 400, "left over"},
      {"data:image/png;base64,a===", 400, "base64"},
      {"data:image/png;base64,====", 400, "base64"},
      {"data:image/png;base64,aGk=aGk=", 400, "alphabet"},
      {"data:image/png;base64,aG-_", 400, "alphabet"},
      {"data:image/png;base64,aG%3D", 400, "base64"},
  };
  for (const auto& row : rows) {
    std::string text;
    EXPECT_EQ(status_of([&] { decode_data_url(row.url); }, &text), row.status) << row.url;
    EXPECT_NE(text.find(row.text), std::string::npos) << row.url << ": " << text;
  }
}

TEST(MediaUrl, Base64GivesBackEveryByte) {
  std::mt19937 random(20261124);
  for (std::size_t size = 0; size < 300; ++size) {
    std::string bytes(size, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    EXPECT_EQ(decode_base64(test::encode_base64(bytes)), bytes) << size;
  }
}

// One character of a valid text replaced by any byte: refused, or it is in the alphabet.
TEST(MediaUrl, EveryWrongCharacterIsRefused) {
  const std::string text = test::encode_base64("any carnal pleas");
  for (std::size_t at = 0; at < text.size(); ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string changed = text;
      changed[at] = static_cast<char>(byte);
      const int status = status_of([&] { decode_base64(changed); });
      if (status == 200) {
        EXPECT_EQ(test::encode_base64(decode_base64(changed)), changed);
      }
    }
  }
}

}  // namespace
}  // namespace quern::server
