// How large a KV cache a model gets.
#include "quern/engine/model_host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/error_message.h"
#include "tests/support/tiny_model.h"

namespace quern::engine {
namespace {

TEST(ModelHost, LongestPositionsThatAFileMayClaim) {
  const Checkpoint checkpoint = Checkpoint::open(quern::test::kTinyModel);
  ModelConfig config = parse_model_config(checkpoint.config());
  config.text_config.max_position_embeddings = INT32_MAX;
  EngineOptions options;
  options.model_dir = quern::test::kTinyModel;
  options.num_threads = 1;
  options.kv_cache_bytes = 4 << 20;
  ModelHost host(options, checkpoint, config);
  ASSERT_GT(host.possible_blocks(), 0);
  host.open_cache(host.possible_blocks());
  EXPECT_EQ(host.max_model_len(), host.num_blocks() * kernels::kBlockTokens);
  for (const int blocks : {0, -1}) {
    EXPECT_THAT(quern::test::error_message([&] { host.open_cache(blocks); }),
                ::testing::HasSubstr("no room for a single block"));
  }
}

}  // namespace
}  // namespace quern::engine
