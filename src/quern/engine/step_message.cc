// See step_message.h. Everything begins at a multiple of 8 bytes, so that arrays are read in place.
#include "quern/engine/step_message.h"

#include <cstring>
#include <string>

#include "quern/base/error.h"

namespace quern::engine {
namespace {

constexpr std::size_t kAlignment = 8;

class Writer {
 public:
  explicit Writer(std::vector<std::byte>& bytes) : bytes_(bytes) { bytes_.clear(); }

  void number(std::int64_t value) { append(std::as_bytes(std::span(&value, 1))); }
  template <typename T>
  void array(std::span<const T> values) {
    number(static_cast<std::int64_t>(values.size()));
    append(std::as_bytes(values));
  }

 private:
  void append(std::span<const std::byte> raw) {
    bytes_.insert(bytes_.end(), raw.begin(), raw.end());
    bytes_.resize((bytes_.size() + kAlignment - 1) / kAlignment * kAlignment);
  }

  std::vector<std::byte>& bytes_;
};

class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}

  std::int64_t number() {
    std::int64_t value = 0;
    std::memcpy(&value, take(sizeof value).data(), sizeof value);
    return value;
  }
  std::size_t count() { return static_cast<std::size_t>(number()); }
  template <typename T>
  std::span<const T> array() {
    const std::size_t size = count();
    return {reinterpret_cast<const T*>(take(size * sizeof(T)).data()), size};
  }

 private:
  std::span<const std::byte> take(std::size_t size) {
    const std::size_t padded = (size + kAlignment - 1) / kAlignment * kAlignment;
    QUERN_CHECK(padded >= size && padded <= bytes_.size(), "a message ends early");
    const auto taken = bytes_.first(size);
    bytes_ = bytes_.subspan(padded);
    return taken;
  }

  std::span<const std::byte> bytes_;
};

}  // namespace

void write_run(std::span<const model::SequenceChunk> chunks, std::vector<std::byte>& bytes) {
  Writer out(bytes);
  out.number(static_cast<std::int64_t>(chunks.size()));
  for (const model::SequenceChunk& chunk : chunks) {
    out.number(chunk.start_position);
    out.number(chunk.wants_logits ? 1 : 0);
    out.array(chunk.token_ids);
    out.array(chunk.block_table);
    out.number(static_cast<std::int64_t>(chunk.features.size()));
    for (const model::FeatureRows& features : chunk.features) {
      out.number(features.offset);
      out.array(features.rows);
    }
  }
}

void read_run(std::span<const std::byte> bytes, RunPlan& plan) {
  Reader in(bytes);
  plan.chunks.clear();
  plan.features.clear();
  plan.logit_rows = 0;
  std::vector<std::size_t> counts(in.count());
  for (std::size_t& count : counts) {
    model::SequenceChunk& chunk = plan.chunks.emplace_back();
    chunk.start_position = static_cast<std::int32_t>(in.number());
    chunk.wants_logits = in.number() != 0;
    plan.logit_rows += chunk.wants_logits ? 1 : 0;
    chunk.token_ids = in.array<std::int32_t>();
    chunk.block_table = in.array<std::int32_t>();
    count = in.count();
    for (std::size_t i = 0; i < count; ++i) {
      const auto offset = static_cast<std::int32_t>(in.number());
      plan.features.push_back({offset, in.array<float>()});
    }
  }
  std::span<const model::FeatureRows> features = plan.features;
  for (std::size_t i = 0; i < counts.size(); ++i) {
    plan.chunks[i].features = features.first(counts[i]);
    features = features.subspan(counts[i]);
  }
}

void write_tokens(std::span<const std::int32_t> tokens, std::vector<std::byte>& bytes) {
  Writer(bytes).array(tokens);
}

std::span<const std::int32_t> read_tokens(std::span<const std::byte> bytes) {
  return Reader(bytes).array<std::int32_t>();
}

void write_images(std::span<const vision::ImagePatches* const> images,
                  std::vector<std::byte>& bytes) {
  Writer out(bytes);
  out.number(static_cast<std::int64_t>(images.size()));
  for (const vision::ImagePatches* image : images) {
    for (const int value : {image->grid_t, image->grid_h, image->grid_w, image->num_tokens})
      out.number(value);
    out.array(std::span<const float>(image->pixels));
  }
}

std::size_t images_within(std::span<const vision::ImagePatches* const> images,
                          std::size_t max_bytes) {
  std::size_t count = 0;
  std::size_t bytes = 0;
  while (count < images.size()) {
    bytes += images[count]->pixels.size() * sizeof(float);
    if (count > 0 && bytes > max_bytes) break;
    ++count;
  }
  return count;
}

std::vector<vision::ImagePatches> read_images(std::span<const std::byte> bytes) {
  Reader in(bytes);
  std::vector<vision::ImagePatches> images(in.count());
  for (vision::ImagePatches& image : images) {
    for (int* value : {&image.grid_t, &image.grid_h, &image.grid_w, &image.num_tokens})
      *value = static_cast<int>(in.number());
    const auto pixels = in.array<float>();
    image.pixels.assign(pixels.begin(), pixels.end());
  }
  return images;
}

}  // namespace quern::engine
