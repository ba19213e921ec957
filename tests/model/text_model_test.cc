// The text decoder against models written independently: NumPy in float64 with named roundings
// (tools/model_reference.py), the published float32 outputs of m3-tiny, and transformers (through
// sel.transformers_f32).
//
// Tolerances are derived in tools/model_reference.py: float32 summation order for the f32 modes;
// for the modes that round, four times the spread that noise below float32 error causes through
// flipped roundings. Decisions (tokens, experts, blocks) are compared where the golden file says
// that such noise does not move them.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <map>
#include <set>
#include <string>

#include "quern/quantize/pipeline.h"
#include "tests/model/model_runner.h"
#include "tests/support/synthetic_checkpoint.h"
#include "tests/support/temp_directory.h"
#include "tests/support/tiny_model.h"

namespace quern::test {
namespace {

using kernels::MoeBackend;
using kernels::Rounding;

Golden text_golden(const std::string& name) {
  return Golden(QUERN_SOURCE_DIR "/tests/golden/model/" + name + ".safetensors");
}

// The checkpoints of the tests, made once: sel (synthetic, 24 blocks of which each of 4 groups
// selects 4) and the MXFP4 versions of both.
const std::filesystem::path& checkpoint(const std::string& name) {
  static TempDirectory directory;
  static std::map<std::string, std::filesystem::path> made{{"tiny", kTinyModel}};
  const auto found = made.find(name);
  if (found != made.end()) return found->second;
  const std::filesystem::path path = directory.path() / name;
  if (name == "sel") {
    write_synthetic_checkpoint(path, SyntheticConfig());
  } else {
    QuantizeOptions options;
    options.model_dir = checkpoint(name.substr(0, name.find('.')));
    options.output_dir = path;
    options.quant_scheme = name.ends_with("weight_only") ? "mxfp4_weight_only" : "mxfp4";
    prepare_output_directory(options);
    run_plan(make_plan(options), options);
  }
  return made.emplace(name, path).first->second;
}

enum class Device { kReferenceF32, kReferenceBF16, kNative, kEmulation };

std::unique_ptr<kernels::Backend> make_backend(Device device) {
  switch (device) {
    case Device::kReferenceF32:
      return kernels::make_reference_backend(Rounding::kNone);
    case Device::kReferenceBF16:
      return kernels::make_reference_backend(Rounding::kBF16);
    case Device::kNative:
      return kernels::make_cpu_backend({2, MoeBackend::kNative});
    case Device::kEmulation:
      return kernels::make_cpu_backend({2, MoeBackend::kEmulation});
  }
  QUERN_CHECK(false);
}

struct Tolerance {
  float logits;
  float hidden;
};

// Which decisions to compare: all when nothing is recorded of noise, else those that noise did not
// move and whose margin is larger than that of any decision of the file that noise did move.
std::vector<bool> sure_decisions(const Golden& want, const std::string& prefix,
                                 const std::string& kind) {
  const auto gaps = want.f32(prefix + kind + "_gap");
  const auto stable = want.bytes(prefix + kind + "_stable");
  float moved = -1;
  for (std::size_t i = 0; i < stable.size(); ++i) {
    if (stable[i] == 0) moved = std::max(moved, gaps[i]);
  }
  std::vector<bool> sure;
  for (std::size_t i = 0; i < gaps.size(); ++i)
    sure.push_back(gaps[i] > moved && (stable.empty() || stable[i] != 0));
  return sure;
}

// Compares rows of `seen` ([tokens, width] per layer, width a multiple of `per`) at `positions`
// with golden [layers, positions, width] as sets of `per` ids, where `sure` says so.
void compare_decisions(const char* what, const std::vector<std::vector<std::int32_t>>& seen,
                       const std::vector<std::int32_t>& positions,
                       const std::vector<std::int32_t>& expected, std::size_t width,
                       std::size_t per, const std::vector<bool>& sure) {
  std::size_t at = 0, compared = 0;
  for (std::size_t layer = 0; layer < seen.size(); ++layer) {
    for (const std::int32_t position : positions) {
      for (std::size_t group = 0; group < width / per; ++group, ++at) {
        if (!sure[at]) continue;
        const auto row =
            std::span(seen[layer])
                .subspan(static_cast<std::size_t>(position) * width + group * per, per);
        const auto golden_row = std::span(expected).subspan(at * per, per);
        EXPECT_EQ(std::multiset<std::int32_t>(row.begin(), row.end()),
                  std::multiset<std::int32_t>(golden_row.begin(), golden_row.end()))
            << what << ", layer " << layer << ", position " << position << ", group " << group;
        ++compared;
      }
    }
  }
  EXPECT_EQ(at, sure.size());
  EXPECT_GT(compared, at / 10) << what << ": too few decisions are sure";
}

// Runs `prefix`'s prompt and compares everything that the golden file holds.
void check(const std::string& directory, const std::string& file, const std::string& prefix,
           Device device, Tolerance limit, Seen* out = nullptr) {
  SCOPED_TRACE(file + " " + prefix + " on device " + std::to_string(static_cast<int>(device)));
  const Golden want = text_golden(file);
  ModelRunner runner(checkpoint(directory), make_backend(device));
  const std::vector<std::int32_t> ids = want.ints(prefix + "input_ids");
  const std::vector<std::int32_t> positions = want.ints(prefix + "positions");
  Seen seen;
  const std::vector<float> last = runner.run(ids, 0, 1 << 20, &seen, true);

  const auto vocab = static_cast<std::size_t>(runner.model().vocab_size());
  const auto logits = want.f32(prefix + "logits");
  for (std::size_t p = 0; p < positions.size(); ++p) {
    const auto row =
        std::span(seen.all_logits).subspan(static_cast<std::size_t>(positions[p]) * vocab, vocab);
    EXPECT_LE(max_difference(row, logits.subspan(p * vocab, vocab)), limit.logits)
        << "position " << positions[p];
  }
  ASSERT_EQ(static_cast<std::size_t>(positions.back()), ids.size() - 1);
  const auto hidden = want.f32(prefix + "hidden");
  const std::size_t width = seen.hidden.front().size();
  for (std::size_t layer = 0; layer < seen.hidden.size(); ++layer) {
    const auto row =
        hidden.subspan((layer * positions.size() + positions.size() - 1) * width, width);
    EXPECT_LE(max_difference(seen.hidden[layer], row), limit.hidden) << "after layer " << layer;
  }
  const TextConfig& config = runner.config().text_config;
  const auto k = static_cast<std::size_t>(config.num_experts_per_tok);
  const auto topk = static_cast<std::size_t>(config.sparse_attention_config->sparse_topk_blocks);
  const auto groups = static_cast<std::size_t>(config.num_key_value_heads);
  compare_decisions("experts", seen.experts, positions, want.ints(prefix + "router"), k, k,
                    sure_decisions(want, prefix, "router"));
  compare_decisions("blocks", seen.blocks, positions, want.ints(prefix + "blocks"), groups * topk,
                    topk, sure_decisions(want, prefix, "block"));

  const std::vector<std::int32_t> tokens = want.ints(prefix + "greedy");
  const auto gap = want.f32(prefix + "greedy_gap");
  const auto ours = runner.greedy(last, static_cast<std::int32_t>(ids.size()), tokens.size());
  std::size_t sure = 0;  // tokens up to the first whose margin is within the error of two logits
  while (sure < tokens.size() && gap[sure] > 2 * limit.logits) ++sure;
  for (std::size_t i = 0; i < sure; ++i) EXPECT_EQ(ours[i], tokens[i]) << "greedy token " << i;
  if (out != nullptr) *out = std::move(seen);
}

Tolerance spread(const std::string& file, const std::string& prefix) {
  const Golden want = text_golden(file);
  const auto logits = want.f32(prefix + "logits.spread");
  const auto hidden = want.f32(prefix + "hidden.spread");
  return {4 * *std::max_element(logits.begin(), logits.end()),
          4 * *std::max_element(hidden.begin(), hidden.end())};
}

constexpr Tolerance kFloat32{1e-4F, 2e-4F};
// Four times the spread of sel.mxfp4_f32: a float32 error can move an activation to the next E2M1
// code.
constexpr Tolerance kMxfp4Float32{2e-3F, 2e-3F};
const char* const kPrompts[] = {"short.", "five_shot."};

TEST(TextModelTiny, Float32) {
  for (const char* prompt : kPrompts)
    check("tiny", "tiny.f32", prompt, Device::kReferenceF32, kFloat32);
}

TEST(TextModelTiny, PublishedFloat32Outputs) {
  const Golden want = text_golden("tiny.f32");
  for (const std::string prompt : {"long", "tool", "thinking"}) {
    SCOPED_TRACE(prompt);
    ModelRunner runner(kTinyModel, kernels::make_reference_backend(Rounding::kNone));
    const auto ids = want.ints(prompt + ".input_ids");
    Seen seen;
    const auto last = runner.run(ids, 0, 1 << 20, &seen, true);
    const auto logits = want.f32(prompt + ".published.logits_last8");
    EXPECT_LE(max_difference(std::span(seen.all_logits).last(logits.size()), logits), 1e-4F);
    const auto hidden = want.f32(prompt + ".published.hidden_last");
    for (std::size_t l = 0; l < seen.hidden.size(); ++l) {
      const std::size_t width = seen.hidden[l].size();
      EXPECT_LE(max_difference(seen.hidden[l], hidden.subspan(l * width, width)), 2e-4F);
    }
    EXPECT_EQ(runner.greedy(last, static_cast<std::int32_t>(ids.size()), 24),
              want.ints(prompt + ".published.greedy"));
  }
}

TEST(TextModelTiny, Bf16) {
  for (const char* prompt : {"short.", "tool.", "thinking.", "five_shot.", "long."}) {
    check("tiny", "tiny.bf16", prompt, Device::kNative, spread("tiny.bf16", prompt));
  }
  check("tiny", "tiny.bf16", "tool.", Device::kReferenceBF16, spread("tiny.bf16", "tool."));
}

TEST(TextModelTiny, Mxfp4) {
  for (const char* prompt : kPrompts) {
    check("tiny.mxfp4", "tiny.mxfp4_bf16", prompt, Device::kNative,
          spread("tiny.mxfp4_bf16", prompt));
    check("tiny.mxfp4", "tiny.mxfp4_bf16", prompt, Device::kEmulation,
          spread("tiny.mxfp4_bf16", prompt));
  }
}

// Against NumPy, every selection of all 3,000 positions included, and against transformers 5.23.0.
TEST(TextModelSelection, Float32) {
  Seen seen;
  check("sel", "sel.f32", "", Device::kReferenceF32, kFloat32, &seen);
  const auto masks =
      text_golden("sel.f32").ints("all_block_mask");  // [layers, 3000, groups], bit b: block b
  constexpr std::size_t kTopk = 4, kGroups = 4;
  std::size_t at = 0, different = 0, groups_disagree = 0;
  for (const auto& layer : seen.blocks) {
    for (std::size_t row = 0; row < layer.size() / kTopk; ++row, ++at) {
      std::int32_t mask = 0;
      for (std::size_t i = 0; i < kTopk; ++i) {
        if (layer[row * kTopk + i] >= 0) mask |= 1 << layer[row * kTopk + i];
      }
      different += mask != masks[at];
      if (row % kGroups != 0) groups_disagree += masks[at] != masks[at - 1];
    }
  }
  EXPECT_EQ(at, masks.size());
  EXPECT_EQ(different, 0U);
  EXPECT_GT(groups_disagree, at / 2) << "the prompt must make groups select different blocks";

  const Golden transformers = text_golden("sel.transformers_f32");
  const auto positions = transformers.ints("positions");
  const auto logits = transformers.f32("logits");
  const std::size_t vocab = logits.size() / positions.size();
  for (std::size_t p = 0; p < positions.size(); ++p) {
    const auto row =
        std::span(seen.all_logits).subspan(static_cast<std::size_t>(positions[p]) * vocab, vocab);
    EXPECT_LE(max_difference(row, logits.subspan(p * vocab, vocab)), kFloat32.logits);
  }
  compare_decisions("blocks of transformers", seen.blocks, positions, transformers.ints("blocks"),
                    16, 4, std::vector<bool>(3 * positions.size() * 4, true));
}

TEST(TextModelSelection, Bf16) {
  check("sel", "sel.bf16", "", Device::kNative, spread("sel.bf16", ""));
}
TEST(TextModelSelection, Mxfp4Float32) {
  check("sel.mxfp4", "sel.mxfp4_f32", "", Device::kReferenceF32, kMxfp4Float32);
}
TEST(TextModelSelection, Mxfp4Native) {
  check("sel.mxfp4", "sel.mxfp4_bf16", "", Device::kNative, spread("sel.mxfp4_bf16", ""));
}
TEST(TextModelSelection, Mxfp4Emulation) {
  check("sel.mxfp4", "sel.mxfp4_bf16", "", Device::kEmulation, spread("sel.mxfp4_bf16", ""));
}

// An implementation that does not quantize activations must be told apart.
TEST(TextModelSelection, WeightOnlyQuantizationFailsTheMxfp4Test) {
  const Golden want = text_golden("sel.mxfp4_f32");
  ModelRunner runner(checkpoint("sel.weight_only"), make_backend(Device::kReferenceF32));
  const auto ids = want.ints("input_ids");
  const auto logits = runner.run(ids);
  const auto expected = want.f32("logits").last(logits.size());
  EXPECT_GT(max_difference(logits, expected), 100 * kMxfp4Float32.logits);
  const Golden weight_only_golden = text_golden("sel.mxfp4_weight_only_f32");
  const auto weight_only = weight_only_golden.f32("logits").last(logits.size());
  EXPECT_LE(max_difference(logits, weight_only), kFloat32.logits);
}

// Whatever the cut of the prompt and whether it is decoded: the same bits.
TEST(TextModelSelection, ChunksAndDecodeEqualOneShot) {
  for (const std::string directory : {"sel", "sel.mxfp4"}) {
    const auto ids = text_golden("sel.f32").ints("input_ids");
    const std::span<const std::int32_t> prompt(ids);
    ModelRunner one(checkpoint(directory), make_backend(Device::kNative));
    const auto expected = one.run(prompt);
    for (const std::size_t chunk : {1000U, 129U}) {
      ModelRunner cut(checkpoint(directory), kernels::make_cpu_backend({1, MoeBackend::kNative}));
      EXPECT_EQ(cut.run(prompt, 0, chunk), expected) << directory << ", chunks of " << chunk;
    }
    ModelRunner decoded(checkpoint(directory), make_backend(Device::kNative));
    decoded.run(prompt.first(2990));
    EXPECT_EQ(decoded.run(prompt.subspan(2990), 2990, 1), expected) << directory << ", decoded";
  }
}

// Blocks that are not selected are not read: overwritten with NaN, nothing changes; a selected one
// is.
TEST(TextModelSelection, UnselectedBlocksAreNotRead) {
  const auto ids = text_golden("sel.f32").ints("input_ids");
  const std::span<const std::int32_t> prompt(ids);
  ModelRunner runner(checkpoint("sel"), make_backend(Device::kNative));
  runner.run(prompt.first(2999));
  Seen seen;
  const auto expected = runner.run(prompt.last(1), 2999, 1, &seen);
  const TextConfig& config = runner.config().text_config;
  const auto topk = static_cast<std::size_t>(config.sparse_attention_config->sparse_topk_blocks);
  std::size_t sparse = 0, poisoned = 0;
  for (int layer = 0; layer < static_cast<int>(config.num_hidden_layers); ++layer) {
    if (!config.is_sparse_attention_layer(layer)) continue;
    for (int head = 0; head < static_cast<int>(config.num_key_value_heads); ++head) {
      const auto chosen =
          std::span(seen.blocks[sparse]).subspan(static_cast<std::size_t>(head) * topk, topk);
      for (std::int32_t b = 0; b <= 2999 / kernels::kBlockTokens; ++b) {
        if (std::find(chosen.begin(), chosen.end(), b) != chosen.end()) continue;
        runner.backend().fill_kv_block(runner.cache(), layer, head,
                                       runner.block_table()[static_cast<std::size_t>(b)],
                                       std::numeric_limits<float>::quiet_NaN());
        ++poisoned;
      }
    }
    ++sparse;
  }
  EXPECT_EQ(poisoned, 3U * 4U * 20U);
  EXPECT_EQ(runner.run(prompt.last(1), 2999, 1), expected);
  const std::int32_t used = seen.blocks[0][0];
  runner.backend().fill_kv_block(runner.cache(), 1, 0,
                                 runner.block_table()[static_cast<std::size_t>(used)],
                                 std::numeric_limits<float>::quiet_NaN());
  EXPECT_NE(runner.run(prompt.last(1), 2999, 1), expected);
}

}  // namespace
}  // namespace quern::test
