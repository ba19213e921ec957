// Every row of every tensor is on a rank, in order; what has to be whole is; sizes that do not
// divide are refused with those that do.
#include "quern/model/sharding.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/validate.h"
#include "quern/model/sharding_cost.h"
#include "tests/support/error_message.h"
#include "tests/support/synthetic_checkpoint.h"

namespace quern::model {
namespace {

using ::testing::HasSubstr;

ModelConfig config_of(const test::SyntheticConfig& config) {
  return parse_model_config(parse_json(test::synthetic_config_json(config), "config.json"));
}

// The sizes of the release.
test::SyntheticConfig release() {
  test::SyntheticConfig config;
  config.vocab_size = 200064;
  config.hidden_size = 6144;
  config.num_hidden_layers = 4;
  config.num_dense_layers = 3;
  config.num_attention_heads = 64;
  config.num_key_value_heads = 4;
  config.head_dim = 128;
  config.rotary_dim = 64;
  config.intermediate_size = 3072;
  config.dense_intermediate_size = 12288;
  config.num_local_experts = 128;
  config.num_experts_per_tok = 4;
  config.sparse_index_dim = 128;
  config.sparse_topk_blocks = 16;
  return config;
}

TEST(Sharding, TheReleaseOnEightRanks) {
  const ModelConfig config = config_of(release());
  const std::string prefix = "language_model.model.layers.3.";
  struct {
    std::string tensor;
    std::int64_t rows;
    RowRange third;  // of rank 3
  } const table[] = {
      {prefix + "self_attn.q_proj.weight", 8192, {3072, 1024}},
      {prefix + "self_attn.k_proj.weight", 512, {128, 128}},  // KV head 3 / 2
      {prefix + "self_attn.v_proj.weight", 512, {128, 128}},
      {prefix + "self_attn.index_q_proj.weight", 512, {128, 128}},
      {prefix + "self_attn.index_k_proj.weight", 128, {0, 128}},
      {prefix + "self_attn.q_norm.weight", 128, {0, 128}},
      {prefix + "self_attn.o_proj.weight", 6144, {2304, 768}},
      {prefix + "block_sparse_moe.gate.weight", 128, {0, 128}},
      {prefix + "block_sparse_moe.e_score_correction_bias", 128, {0, 128}},
      {prefix + "block_sparse_moe.experts.17.w1.weight", 3072, {1152, 384}},
      {prefix + "block_sparse_moe.experts.17.w2.weight_scale", 6144, {2304, 768}},
      {prefix + "block_sparse_moe.shared_experts.down_proj.weight", 6144, {2304, 768}},
      {"language_model.model.layers.0.mlp.gate_proj.weight", 12288, {4608, 1536}},
      {"language_model.model.embed_tokens.weight", 200064, {75024, 25008}},
      {"language_model.lm_head.weight", 200064, {75024, 25008}},
      {"language_model.model.norm.weight", 6144, {0, 6144}},
      {prefix + "input_layernorm.weight", 6144, {0, 6144}},
      {"vision_tower.vision_model.embeddings.patch_embedding.weight", 1280, {0, 1280}},
      {"vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.bias", 1280, {480, 160}},
      {"vision_tower.vision_model.encoder.layers.0.layer_norm1.bias", 1280, {0, 1280}},
      {"multi_modal_projector.linear_1.weight", 6144, {2304, 768}},
  };
  for (const auto& row : table) {
    const RowRange found = rows_of(row.tensor, row.rows, config, {3, 8});
    EXPECT_EQ(found.begin, row.third.begin) << row.tensor;
    EXPECT_EQ(found.count, row.third.count) << row.tensor;
  }
  EXPECT_EQ(local_heads(config.text_config, {3, 8}), 8);
  EXPECT_EQ(local_kv_heads(config.text_config, {3, 8}), 1);
  EXPECT_EQ(local_kv_heads(config.text_config, {1, 2}), 2);
  // Experts 48..63 are rank 3's.
  const Sharding experts{3, 8, true};
  EXPECT_EQ(rows_of(prefix + "block_sparse_moe.experts.48.w1.weight", 3072, config, experts).count,
            3072);
  EXPECT_EQ(rows_of(prefix + "block_sparse_moe.experts.64.w1.weight", 3072, config, experts).count,
            0);
  EXPECT_EQ(
      rows_of(prefix + "block_sparse_moe.shared_experts.up_proj.weight", 3072, config, experts)
          .count,
      384);
  const Sharding pictures{3, 8, false, true};
  EXPECT_EQ(
      rows_of("vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight", 5120, config, pictures)
          .count,
      5120);
}

TEST(Sharding, RowsOfAllRanksAreTheTensor) {
  const ModelConfig config = config_of(release());
  for (const bool expert_parallel : {false, true}) {
    for (const ExpectedTensor& tensor : expected_tensors(config)) {
      std::int64_t next = 0;
      std::int64_t total = 0;
      for (int rank = 0; rank < 4; ++rank) {
        const RowRange part =
            rows_of(tensor.name, tensor.shape[0], config, {rank, 4, expert_parallel});
        total += part.count;
        if (part.count == 0 || part.count == tensor.shape[0]) continue;
        EXPECT_EQ(part.begin, next) << tensor.name;
        next += part.count;
      }
      EXPECT_TRUE(next == tensor.shape[0] || total == 4 * tensor.shape[0] ||
                  total == tensor.shape[0])
          << tensor.name;
    }
  }
}

TEST(Sharding, SizesThatDoNotDivideAreRefusedWithThoseThatDo) {
  ModelConfig config = config_of(release());
  EXPECT_EQ(sharding_obstacle(config, {0, 8}, true), "");
  EXPECT_THAT(test::error_message([&] {
                check_sharding(config, {0, 3}, false);
              }),
              HasSubstr("tensor parallel size 3: num_attention_heads 64 is not a multiple of 3; "
                        "sizes that work: 1, 2, 4, 8, 16, 32, 64"));
  EXPECT_THAT(test::error_message([&] {
                check_sharding(config, {0, 129}, false);
              }),
              HasSubstr("at most 128 ranks"));
  config.quantization_config.emplace();
  EXPECT_THAT(test::error_message([&] {
                check_sharding(config, {0, 64}, false);
              }),
              HasSubstr("shared_intermediate_size 3072 is not a multiple of 64 x 32"));
  config.text_config.num_key_value_heads = 12;
  config.text_config.num_attention_heads = 96;
  EXPECT_THAT(test::error_message([&] {
                check_sharding(config, {0, 8}, false);
              }),
              HasSubstr("num_key_value_heads 12 is neither a multiple nor a divisor of 8"));
}

// By hand, for the release on 8 ranks: 60 layers of which this has 4; 3 dense, 1 MoE.
TEST(ShardingCost, OfTheReleaseOnEightRanks) {
  const ModelConfig config = config_of(release());
  const std::int64_t attention = 2 * 8192 + 2 * 6144 + 2 * 6144;
  const std::int64_t both_ends = 2 * 6144 + 2 * (200064 - 25008);
  EXPECT_EQ(token_traffic(config, {0, 8}).sent_bytes,
            4 * attention + 3 * 2 * 12288 + 5 * 2 * 3072 + both_ends);
  EXPECT_EQ(token_traffic(config, {0, 8}).operations, 4 * 4 + 2);
  EXPECT_EQ(token_traffic(config, {0, 8, true}).sent_bytes,
            4 * attention + 3 * 2 * 12288 + 2 * 3072 + 4 * 2 * (6144 - 768) + both_ends);
  EXPECT_EQ(token_traffic(config, {0, 1}).sent_bytes, 0);
  // K and V of one head in 4 layers, the indexer's key in one.
  EXPECT_EQ(kv_bytes_per_token(config.text_config, {0, 8}), 4 * 2 * 128 * 2 + 128 * 2);
  EXPECT_EQ(kv_bytes_per_token(config.text_config, {0, 1}), 4 * 4 * 2 * 128 * 2 + 128 * 2);
}

TEST(ShardingCost, SlicesAreTheWholeAndWhatIsReplicated) {
  const Checkpoint checkpoint = Checkpoint::open(QUERN_SOURCE_DIR "/models/m3-tiny");
  const ModelConfig config = parse_model_config(checkpoint.config());
  for (const bool expert_parallel : {false, true}) {
    const auto parts = part_bytes(checkpoint, config, {0, 4, expert_parallel});
    for (std::size_t i = 0; i < kNumModelParts; ++i) {
      const auto part = static_cast<ModelPart>(i);
      EXPECT_GE(parts[i].all_ranks, parts[i].whole) << part_name(part);
      EXPECT_LE(parts[i].rank, parts[i].whole) << part_name(part);
    }
    const PartBytes& experts = parts[static_cast<std::size_t>(ModelPart::kRoutedExperts)];
    EXPECT_EQ(experts.all_ranks, experts.whole);
    EXPECT_EQ(experts.rank * 4, experts.whole);
    const PartBytes& norms = parts[static_cast<std::size_t>(ModelPart::kNorms)];
    EXPECT_EQ(norms.all_ranks, 4 * norms.whole);
  }
}

}  // namespace
}  // namespace quern::model
