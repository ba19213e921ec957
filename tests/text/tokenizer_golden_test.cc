// Tokenizer against recorded answers of Hugging Face `tokenizers` on m3-tiny's file.
#include <gtest/gtest.h>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/text/tokenizer.h"
#include "tests/support/tiny_model.h"

namespace quern {
namespace {

// `file` holds [{"text": ..., "ids": [...]}, ...], made by tools/text_compare_with_peers.py.
void expect_golden(const std::string& file, std::size_t cases) {
  const Tokenizer tokenizer = Tokenizer::load(test::kTinyModel);
  const Json golden =
      parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/text/" + file, 1u << 22), file);
  ASSERT_GE(golden.size(), cases);
  for (const Json& entry : golden) {
    const auto text = entry["text"].get<std::string>();
    const auto ids = tokenizer.encode(text);
    EXPECT_EQ(ids, entry["ids"].get<std::vector<std::int32_t>>()) << entry["text"];
    EXPECT_EQ(tokenizer.decode(ids, false), text);
  }
}

TEST(TokenizerGolden, M3Tiny) { expect_golden("m3_tiny_tokenizer.json", 60); }

}  // namespace
}  // namespace quern
