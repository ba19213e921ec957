// The URL of a picture: its scheme, and the bytes of a data: URL. Must never take base64 that has
// another form than the one its bytes are written in.
// Proved by Fuzz.data_url and by running it under libFuzzer (fuzz/README.md).
#include <string>

#include "fuzz/fuzz_target.h"
#include "quern/server/media_url.h"
#include "tests/server/base64.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const std::string_view url = fuzz::text_of(data, size);
  fuzz::accepts([&] {
    if (server::media_scheme(url) != server::MediaScheme::kData) return;
    const std::string bytes = server::decode_data_url(url);
    QUERN_CHECK(url.substr(url.find(',') + 1) == server::test::encode_base64(bytes));
  });
  return 0;
}
