// A video as a stranger sends it: container, codec, sampling, segments. Must never give other
// segments than the plan that was made from the header promised, or take long.
// Proved by Fuzz.video and by running it under libFuzzer (fuzz/README.md).
#include <span>

#include "fuzz/fuzz_target.h"
#include "quern/vision/video.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const auto bytes = std::as_bytes(std::span(data, size));
  vision::VideoLimits limits;
  limits.max_pixels = 1 << 16;
  limits.max_frames = 300;
  limits.max_decode_seconds = 5;
  static const auto config = vision::make_preprocess_config(PreprocessorConfig{});
  fuzz::accepts([&] {
    const vision::VideoPlan plan = vision::plan_video(bytes, config, limits, 200);
    QUERN_CHECK(plan.grid.tokens(config.merge_size) <= 200);
    int steps = 0;
    for (const auto& segment : vision::preprocess_video(bytes, plan, config, limits)) {
      QUERN_CHECK(segment.patches.grid_t <= config.segment_steps);
      QUERN_CHECK(std::ssize(segment.seconds) == segment.patches.grid_t);
      QUERN_CHECK(segment.patches.grid_h == plan.grid.h && segment.patches.grid_w == plan.grid.w);
      steps += segment.patches.grid_t;
    }
    QUERN_CHECK(steps > 0 && steps <= plan.grid.t);
  });
  return 0;
}
