// A step as bytes: what the process with the scheduler asks all ranks to do.
// Must never be read by another build than wrote it: the ranks are the same program.
// Proved by tests/engine/step_message_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quern/distributed/frame_socket.h"
#include "quern/model/text_model.h"
#include "quern/vision/preprocess.h"

namespace quern::engine {

// Kinds of messages to the ranks.
inline constexpr std::uint64_t kSetupMessage = kFrameFirstFree;  // JSON, see rank_worker.h
inline constexpr std::uint64_t kRunMessage = kFrameFirstFree + 1;
inline constexpr std::uint64_t kLogitsMessage = kFrameFirstFree + 2;
inline constexpr std::uint64_t kEncodeMessage = kFrameFirstFree + 3;
inline constexpr std::uint64_t kIdleMessage = kFrameFirstFree + 4;  // between ranks: all are there

// Each writes over `bytes`.
void write_run(std::span<const model::SequenceChunk> chunks, std::vector<std::byte>& bytes);
void write_tokens(std::span<const std::int32_t> tokens, std::vector<std::byte>& bytes);
void write_images(std::span<const vision::ImagePatches* const> images,
                  std::vector<std::byte>& bytes);
// How many of the first images (at least one) have no more than `max_bytes` of pixels together.
std::size_t images_within(std::span<const vision::ImagePatches* const> images,
                          std::size_t max_bytes);

// The chunks of a message; they point into it.
struct RunPlan {
  std::vector<model::SequenceChunk> chunks;
  std::vector<model::FeatureRows> features;
  std::size_t logit_rows = 0;
};
void read_run(std::span<const std::byte> bytes, RunPlan& plan);
std::span<const std::int32_t> read_tokens(std::span<const std::byte> bytes);
std::vector<vision::ImagePatches> read_images(std::span<const std::byte> bytes);

}  // namespace quern::engine
