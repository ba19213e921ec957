// How long does a picture of 672 x 672 take in a vision tower of the release's widths, and how far
// is that from the multiply-adds that the machine can do? Four of the 32 layers, random weights.
// Times are CPU time a thread, so that other programs on the machine do not count (they still take
// caches).
//
//   vision_bench [--dir DIR]   keeps the checkpoint in DIR (for tools/vision_compare_with_peers.py)
#include <fmt/core.h>

#include <algorithm>
#include <ctime>
#include <string_view>
#include <vector>

#include "quern/base/thread_team.h"
#include "quern/kernels/factory.h"
#include "quern/kernels/machine_probe.h"
#include "quern/model/vision_tower.h"
#include "quern/vision/preprocess.h"
#include "tests/support/synthetic_checkpoint.h"
#include "tests/support/temp_directory.h"

namespace {

using namespace quern;

constexpr std::int64_t kSide = 672;
constexpr int kRuns = 5;

// A text part as small as it may be beside a tower of full size.
test::SyntheticConfig bench_config() {
  test::SyntheticConfig config;
  config.vocab_size = 64;
  config.hidden_size = 6144;
  config.num_hidden_layers = 1;
  config.num_attention_heads = 4;
  config.dense_intermediate_size = 64;
  config.vision_layers = 4;
  return config;
}

vision::RgbImage picture() {
  vision::RgbImage image{{kSide, kSide}, {}};
  std::uint32_t state = 1;
  for (std::int64_t i = 0; i < kSide * kSide * 3; ++i) {
    state = state * 1664525 + 1013904223;
    image.pixels.push_back(static_cast<std::uint8_t>(state >> 24));
  }
  return image;
}

// Multiply-adds of a picture, as config.json's sizes give them.
double multiply_adds(const VisionConfig& v, double projector, double patches) {
  const auto width = static_cast<double>(v.hidden_size);
  const auto inner = static_cast<double>(v.intermediate_size);
  const auto out = static_cast<double>(v.projection_dim);
  const double layer =
      patches * (4 * width * width + 2 * width * inner) + 2 * patches * patches * width;
  const double project = patches * (width * projector + projector * out);
  const double merge = patches / 4 * (4 * out * projector + projector * out);
  return patches * 1176 * width + static_cast<double>(v.num_hidden_layers) * layer + project +
         merge;
}

double cpu_seconds() {
  timespec now{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// CPU time of the best run, of all threads together.
template <typename Fn>
double best_seconds(Fn&& fn) {
  double best = 1e30;
  for (int i = 0; i < kRuns; ++i) {
    const double start = cpu_seconds();
    fn();
    best = std::min(best, cpu_seconds() - start);
  }
  return best;
}

void run(const std::filesystem::path& directory) {
  if (!std::filesystem::exists(directory / "config.json"))
    test::write_synthetic_checkpoint(directory, bench_config());
  const Checkpoint checkpoint = Checkpoint::open(directory);
  const ModelConfig config = parse_model_config(checkpoint.config());
  const auto preprocess = vision::make_preprocess_config(PreprocessorConfig{});
  const vision::RgbImage image = picture();
  vision::ImagePatches patches;
  const double before =
      best_seconds([&] { patches = vision::preprocess_image(image, preprocess); });
  std::vector<float> features(static_cast<std::size_t>(patches.num_tokens) *
                              static_cast<std::size_t>(config.vision_config->projection_dim));
  const vision::ImagePatches* one = &patches;
  const double work =
      multiply_adds(*config.vision_config, static_cast<double>(config.projector_hidden_size),
                    static_cast<double>(patches.num_patches()));
  ThreadTeam team;
  const double peak = kernels::float_multiply_adds_per_second(team, 0.2);
  const int threads = team.size();
  fmt::print("| step | ms, {} threads | 10^9 multiply-adds | of the float32 peak |\n", threads);
  fmt::print("|---|---|---|---|\n");
  fmt::print("| patches of a 672 x 672 picture, one thread | {:.1f} | - | - |\n", before * 1e3);
  for (const auto unit : {kernels::TileUnit::kVectors, kernels::TileUnit::kAuto}) {
    kernels::CpuOptions options;
    options.tile_unit = unit;
    const auto backend = kernels::make_cpu_backend(options);
    model::VisionTower tower(checkpoint, config, *backend, {});
    const double encode = best_seconds([&] { tower.encode({&one, 1}, features); });
    fmt::print(
        "| tower, 4 layers, and projector, {} | {:.0f} | {:.0f} | {:.2f} of {:.0f} 10^9/s |\n",
        unit == kernels::TileUnit::kVectors ? "float32 vectors" : "the unit chosen",
        encode / threads * 1e3, work / 1e9, work / encode * threads / peak, peak / 1e9);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 3 && std::string_view(argv[1]) == "--dir") {
    run(argv[2]);
    return 0;
  }
  const test::TempDirectory directory;
  run(directory.path() / "checkpoint");
}
