// See image_inputs.h.
#include "quern/server/image_inputs.h"

#include <fmt/format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <optional>
#include <span>
#include <utility>

#include "quern/base/error.h"
#include "quern/server/api_error.h"

namespace quern::server {
namespace {

std::span<const std::byte> bytes_of(const Media& media) {
  return std::as_bytes(std::span(media.bytes));
}

// Digest of a few spans of bytes, one behind the other.
engine::ImageHash sha256(std::initializer_list<std::span<const std::byte>> parts) {
  engine::ImageHash hash{};
  const std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(),
                                                                        &EVP_MD_CTX_free);
  unsigned size = 0;
  bool done = EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) == 1;
  for (const auto& part : parts)
    done = done && EVP_DigestUpdate(context.get(), part.data(), part.size()) == 1;
  done = done && EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(hash.data()),
                                    &size) == 1;
  QUERN_CHECK(done && size == hash.size());
  return hash;
}

using Grid = std::array<std::int32_t, 4>;

Grid grid_of(const vision::ImagePatches& patches) {
  return {patches.grid_t, patches.grid_h, patches.grid_w, patches.num_tokens};
}

// Everything that the tower sees, so that equal hashes mean equal features: pixels after resize and
// normalisation, and the grid.
engine::ImageHash content_hash(const vision::ImagePatches& patches) {
  const Grid grid = grid_of(patches);
  return sha256({std::as_bytes(std::span(grid)), std::as_bytes(std::span(patches.pixels))});
}

// The client's name in place of the content. The grid stays: features of another size must never be
// taken for these. `index`: of the segment of a video.
engine::ImageHash name_hash(const std::string& key, int index,
                            const vision::ImagePatches& patches) {
  const std::array<std::int32_t, 2> head{-1, index};  // no grid begins with -1
  const Grid grid = grid_of(patches);
  return sha256({std::as_bytes(std::span(head)), std::as_bytes(std::span(grid)),
                 std::as_bytes(std::span(key))});
}

// Patches that give their share of the budget back when the last generation lets go of them.
struct HeldPatches {
  vision::ImagePatches patches;
  MemoryBudget::Share share;
};

std::shared_ptr<const vision::ImagePatches> held(vision::ImagePatches patches,
                                                 MemoryBudget::Share share) {
  const auto both =
      std::make_shared<HeldPatches>(HeldPatches{std::move(patches), std::move(share)});
  return {both, &both->patches};
}

// What is wrong with a picture is the client's to know.
template <typename Fn>
auto answering_400(const char* what, Fn&& fn) {
  try {
    return fn();
  } catch (const vision::ImageError& error) {
    throw ApiError(400, error.what(), what);
  }
}

const char* name_of(PartKind kind) { return kind == PartKind::kVideo ? "video" : "image"; }

}  // namespace

// What is known of an item before anything of it is decoded.
struct ImageInputs::Draft {
  std::string key;  // in the cache; "" = the item has no uuid
  std::optional<PreparedMedia> known;
  std::optional<vision::VideoPlan> plan;
  vision::PatchGrid grid;
  MemoryBudget::Share share;
};

ImageInputs::ImageInputs(ImageInputOptions options)
    : options_(std::move(options)), cache_(std::make_unique<MediaCache>(options_.cache_bytes)) {}

std::vector<PreparedMedia> ImageInputs::prepare(std::vector<MediaItem> items,
                                                const std::string& cache_salt) const {
  std::vector<Draft> drafts;
  std::int64_t tokens = 0;
  for (const MediaItem& item : items) {
    Draft draft = look_at(item, cache_salt, options_.max_model_len - tokens);
    tokens += draft.known ? draft.known->tokens : draft.grid.tokens(options_.config.merge_size);
    if (tokens >= options_.max_model_len) {
      throw ApiError(400,
                     fmt::format("This model's maximum context length is {} tokens. However, the "
                                 "images of your prompt alone have at least {} tokens. Please "
                                 "reduce their number or size. (parameter=input_tokens, value={})",
                                 options_.max_model_len, tokens, tokens),
                     "input_tokens");
    }
    if (!draft.known) draft.share = take_memory(draft.grid.patches());
    drafts.push_back(std::move(draft));
  }
  std::vector<PreparedMedia> prepared;
  for (std::size_t i = 0; i < items.size(); ++i) {
    if (drafts[i].known) {
      prepared.push_back(std::move(*drafts[i].known));
      continue;
    }
    prepared.push_back(make(items[i], drafts[i]));
    if (!drafts[i].key.empty()) cache_->put(drafts[i].key, prepared.back());
    items[i] = {};
    drafts[i] = {};
  }
  return prepared;
}

// The header only, or what the cache has.
ImageInputs::Draft ImageInputs::look_at(const MediaItem& item, const std::string& cache_salt,
                                        std::int64_t max_tokens) const {
  const char* what = name_of(item.kind);
  Draft draft;
  if (!item.uuid.empty()) {
    draft.key = fmt::format("{} {} {}{}", what, cache_salt.size(), cache_salt, item.uuid);
  }
  if (!item.has_url) {
    draft.known = cache_->find(draft.key);
    if (draft.known) return draft;
    throw ApiError(400,
                   fmt::format("The {} with uuid '{}' is not, or no longer, in the cache. Please "
                               "send it with its data.",
                               what, item.uuid),
                   "uuid");
  }
  answering_400(what, [&] {
    const auto bytes = bytes_of(item.media);
    if (item.kind == PartKind::kVideo) {
      draft.plan = vision::plan_video(bytes, options_.config, options_.video_limits, max_tokens);
      draft.grid = draft.plan->grid;
    } else {
      draft.grid =
          vision::image_grid(vision::probe_image(bytes, options_.limits).size, options_.config);
    }
  });
  return draft;
}

// What clients named before goes when live requests need its memory.
MemoryBudget::Share ImageInputs::take_memory(std::int64_t patches) const {
  const vision::VisionPreprocessConfig& config = options_.config;
  const auto patch_bytes = static_cast<std::size_t>(3 * config.temporal_patch_size *
                                                    config.patch_size * config.patch_size) *
                           sizeof(float);
  for (;;) {
    auto share = options_.budget->take(static_cast<std::size_t>(patches) * patch_bytes);
    if (share != nullptr) return share;
    if (!cache_->drop_oldest()) {
      throw ApiError(429, "The server holds too much media already. Please try again later.");
    }
  }
}

PreparedMedia ImageInputs::make(const MediaItem& item, const Draft& draft) const {
  if (item.kind == PartKind::kVideo) return make_video(item, draft);
  PreparedMedia result;
  engine::ImageInput image;
  image.patches = held(answering_400("image",
                                     [&] {
                                       return vision::preprocess_image(
                                           bytes_of(item.media), options_.config, options_.limits);
                                     }),
                       draft.share);
  image.hash =
      draft.key.empty() ? content_hash(*image.patches) : name_hash(draft.key, 0, *image.patches);
  image.num_tokens = image.patches->num_tokens;
  result.tokens = image.num_tokens;
  result.bytes = image.patches->pixels.size() * sizeof(float);
  result.pieces.push_back({{}, std::move(image)});
  return result;
}

// Each temporal patch is a piece, behind the time of its first frame; the patches of a segment
// share their features.
PreparedMedia ImageInputs::make_video(const MediaItem& item, const Draft& draft) const {
  std::vector<vision::VideoSegment> segments = answering_400("video", [&] {
    return vision::preprocess_video(bytes_of(item.media), *draft.plan, options_.config,
                                    options_.video_limits);
  });
  PreparedMedia result;
  result.video = true;
  int index = 0;
  for (vision::VideoSegment& segment : segments) {
    engine::ImageInput image;
    image.patches = held(std::move(segment.patches), draft.share);
    image.hash = draft.key.empty() ? content_hash(*image.patches)
                                   : name_hash(draft.key, index, *image.patches);
    image.num_tokens = image.patches->num_tokens / image.patches->grid_t;
    result.tokens += image.patches->num_tokens;
    result.bytes += image.patches->pixels.size() * sizeof(float);
    for (const double seconds : segment.seconds) {
      result.pieces.push_back(
          {options_.tokenize(fmt::format("]<]{:.1f} seconds[>[", seconds)), image});
      image.first_row += image.num_tokens;
    }
    ++index;
  }
  return result;
}

std::vector<engine::ImageInput> ImageInputs::expand(std::vector<std::int32_t>& prompt,
                                                    const std::vector<PreparedMedia>& media) const {
  for (const bool video : {false, true}) {
    const auto placeholders = std::count(prompt.begin(), prompt.end(),
                                         video ? options_.video_token : options_.image_token);
    const auto wanted =
        std::count_if(media.begin(), media.end(),
                      [video](const PreparedMedia& item) { return item.video == video; });
    if (placeholders == wanted) continue;
    throw ApiError(400, fmt::format("The rendered prompt has {} {} placeholders ({}) for {} {}s. "
                                    "Text of a request with images must not hold the placeholder.",
                                    placeholders, video ? "video" : "image",
                                    video ? options_.video_placeholder : options_.placeholder,
                                    wanted, video ? "video" : "image"));
  }
  std::vector<engine::ImageInput> images;
  std::vector<std::int32_t> expanded;
  std::array<std::size_t, 2> next{};  // of each kind
  for (const std::int32_t token : prompt) {
    if (token != options_.image_token && token != options_.video_token) {
      expanded.push_back(token);
      continue;
    }
    const bool video = token == options_.video_token;
    std::size_t& at = next[video ? 1 : 0];
    while (media[at].video != video) ++at;
    for (const MediaPiece& piece : media[at++].pieces) {
      expanded.insert(expanded.end(), piece.text.begin(), piece.text.end());
      expanded.push_back(options_.start_token);
      images.push_back(piece.image);
      images.back().offset = static_cast<int>(expanded.size());
      expanded.insert(expanded.end(), static_cast<std::size_t>(piece.image.num_tokens), token);
      expanded.push_back(options_.end_token);
    }
  }
  prompt = std::move(expanded);
  return images;
}

}  // namespace quern::server
