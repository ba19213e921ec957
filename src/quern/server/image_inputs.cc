// See image_inputs.h.
#include "quern/server/image_inputs.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <span>
#include <utility>

#include "quern/base/error.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

std::span<const std::byte> bytes_of(const Media& media) {
  return std::as_bytes(std::span(media.bytes));
}

// Everything that the tower sees, so that equal hashes mean equal features: pixels after resize and
// normalisation, and the grid.
engine::ImageHash hash_of(const vision::ImagePatches& patches) {
  const std::array<std::int32_t, 4> grid{patches.grid_t, patches.grid_h, patches.grid_w,
                                         patches.num_tokens};
  engine::ImageHash hash{};
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  unsigned size = 0;
  const bool done =
      EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1 &&
      EVP_DigestUpdate(context.get(), grid.data(), sizeof grid) == 1 &&
      EVP_DigestUpdate(context.get(), patches.pixels.data(),
                       patches.pixels.size() * sizeof(float)) == 1 &&
      EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(hash.data()), &size) == 1;
  QUERN_CHECK(done && size == hash.size());
  return hash;
}

// Patches that give their share of the budget back when the last generation lets go of them.
struct HeldPatches {
  vision::ImagePatches patches;
  MemoryBudget::Share share;
};

// What is wrong with a picture is the client's to know.
template <typename Fn>
auto answering_400(Fn&& fn) {
  try {
    return fn();
  } catch (const vision::ImageError& error) {
    throw ApiError(400, error.what(), "image");
  }
}

}  // namespace

std::vector<engine::ImageInput> ImageInputs::prepare(std::vector<Media> media) const {
  const vision::VisionPreprocessConfig& config = options_.config;
  const auto patch_bytes = static_cast<std::size_t>(3 * config.temporal_patch_size *
                                                    config.patch_size * config.patch_size) *
                           sizeof(float);
  std::vector<MemoryBudget::Share> shares;
  std::int64_t tokens = 0;
  for (const Media& item : media) {
    const vision::PatchGrid grid = answering_400([&] {
      return vision::image_grid(vision::probe_image(bytes_of(item), options_.limits).size, config);
    });
    tokens += grid.tokens(config.merge_size);
    if (tokens >= options_.max_model_len) {
      throw ApiError(400,
                     fmt::format("This model's maximum context length is {} tokens. However, the "
                                 "images of your prompt alone have at least {} tokens. Please "
                                 "reduce their number or size. (parameter=input_tokens, value={})",
                                 options_.max_model_len, tokens, tokens),
                     "input_tokens");
    }
    shares.push_back(options_.budget->take(static_cast<std::size_t>(grid.patches()) * patch_bytes));
    if (shares.back() == nullptr) {
      throw ApiError(429, "The server holds too much media already. Please try again later.");
    }
  }
  std::vector<engine::ImageInput> images;
  for (std::size_t i = 0; i < media.size(); ++i) {
    images.push_back(prepare_one(media[i], std::move(shares[i])));
    media[i] = {};
  }
  return images;
}

engine::ImageInput ImageInputs::prepare_one(const Media& media, MemoryBudget::Share share) const {
  const auto held = std::make_shared<HeldPatches>();
  held->share = std::move(share);
  held->patches = answering_400(
      [&] { return vision::preprocess_image(bytes_of(media), options_.config, options_.limits); });
  engine::ImageInput image;
  image.hash = hash_of(held->patches);
  image.patches = {held, &held->patches};
  return image;
}

void ImageInputs::expand(std::vector<std::int32_t>& prompt,
                         std::vector<engine::ImageInput>& images) const {
  const auto placeholders =
      static_cast<std::size_t>(std::count(prompt.begin(), prompt.end(), options_.image_token));
  if (placeholders != images.size()) {
    throw ApiError(400,
                   fmt::format("The rendered prompt has {} image placeholders ({}) for {} images. "
                               "Text of a request with images must not hold the placeholder.",
                               placeholders, options_.placeholder, images.size()));
  }
  std::vector<std::int32_t> expanded;
  std::size_t next = 0;
  for (const std::int32_t token : prompt) {
    if (token != options_.image_token) {
      expanded.push_back(token);
      continue;
    }
    engine::ImageInput& image = images[next++];
    expanded.push_back(options_.start_token);
    image.offset = static_cast<int>(expanded.size());
    expanded.insert(expanded.end(), static_cast<std::size_t>(image.patches->num_tokens),
                    options_.image_token);
    expanded.push_back(options_.end_token);
  }
  prompt = std::move(expanded);
}

}  // namespace quern::server
