// See checkpoint.h.
#include "quern/checkpoint/checkpoint.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "quern/base/error.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxConfigBytes = 16U << 20U;
constexpr std::size_t kMaxIndexBytes = 512U << 20U;
constexpr const char* kIndexName = "model.safetensors.index.json";

// Shards without an index: model.safetensors, or else every *.safetensors, by name.
std::vector<fs::path> unindexed_shards(const fs::path& directory) {
  if (fs::exists(directory / "model.safetensors")) return {directory / "model.safetensors"};
  std::vector<fs::path> paths;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory)) {
    if (entry.path().extension() == ".safetensors") paths.push_back(entry.path());
  }
  if (paths.empty()) throw Error("'{}' holds no *.safetensors file", directory.string());
  std::sort(paths.begin(), paths.end());
  return paths;
}

// The files that an index names, each once, by name.
std::vector<fs::path> indexed_shards(const fs::path& directory, const SafetensorsIndex& index) {
  std::vector<std::string> names;
  for (const auto& [tensor, file] : index.weight_map) {
    if (names.empty() || names.back() != file) names.push_back(file);
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  std::vector<fs::path> paths;
  for (const std::string& name : names) {
    if (!fs::exists(directory / name)) {
      throw Error("{} names '{}', which does not exist", (directory / kIndexName).string(), name);
    }
    paths.push_back(directory / name);
  }
  if (paths.empty()) throw Error("{}: weight_map is empty", (directory / kIndexName).string());
  return paths;
}

class Xxh3 {
 public:
  Xxh3() : state_(XXH3_createState()) {
    QUERN_CHECK(state_ != nullptr);
    XXH3_128bits_reset(state_.get());
  }
  void add(std::span<const std::byte> bytes) {
    XXH3_128bits_update(state_.get(), bytes.data(), bytes.size());
  }
  // Text with its length in front, so that neighbours cannot run into each other.
  void add_text(std::string_view text) {
    const std::uint64_t size = text.size();
    add(std::as_bytes(std::span(&size, 1)));
    add(std::as_bytes(std::span(text)));
  }
  std::string hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

}  // namespace

Checkpoint Checkpoint::open(const fs::path& directory) {
  if (!fs::is_directory(directory)) throw Error("'{}' is not a directory", directory.string());
  Checkpoint checkpoint;
  checkpoint.directory_ = directory;
  const fs::path config_path = directory / "config.json";
  checkpoint.config_text_ = read_file(config_path, kMaxConfigBytes);
  checkpoint.config_ = parse_json(checkpoint.config_text_, config_path.string());

  SafetensorsIndex index;
  const fs::path index_path = directory / kIndexName;
  const bool indexed = fs::exists(index_path);
  if (indexed) {
    checkpoint.index_text_ = read_file(index_path, kMaxIndexBytes);
    index = parse_safetensors_index(checkpoint.index_text_, index_path.string());
  }
  for (const fs::path& path :
       indexed ? indexed_shards(directory, index) : unindexed_shards(directory)) {
    checkpoint.shards_.emplace_back(path);
  }

  for (std::size_t shard = 0; shard < checkpoint.shards_.size(); ++shard) {
    const SafetensorsFile& file = checkpoint.shards_[shard];
    for (const TensorInfo& info : file.tensors()) {
      const auto [found, inserted] =
          checkpoint.by_name_.emplace(info.name, checkpoint.tensors_.size());
      if (!inserted) {
        const SafetensorsFile& first = checkpoint.shards_[checkpoint.tensors_[found->second].shard];
        throw Error("tensor '{}' is in both {} and {}", info.name, first.path().string(),
                    file.path().string());
      }
      checkpoint.tensors_.push_back({info.name, file.view(info), shard});
    }
  }
  for (const auto& [tensor, file] : index.weight_map) {
    const auto found = checkpoint.by_name_.find(tensor);
    if (found == checkpoint.by_name_.end() || checkpoint.shard_of(tensor) != directory / file) {
      throw Error("{} says that tensor '{}' is in '{}', but it is not", index_path.string(), tensor,
                  file);
    }
  }
  return checkpoint;
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &tensors_[found->second].view;
}

const Checkpoint::Tensor& Checkpoint::at(std::string_view name) const {
  const auto found = by_name_.find(name);
  if (found == by_name_.end()) throw Error("'{}' has no tensor '{}'", directory_.string(), name);
  return tensors_[found->second];
}

const TensorView& Checkpoint::get(std::string_view name) const { return at(name).view; }

const fs::path& Checkpoint::shard_of(std::string_view name) const {
  return shards_[at(name).shard].path();
}

std::string Checkpoint::content_hash() const {
  constexpr std::uint64_t kWholeLimit = std::uint64_t{1} << 30U;
  constexpr std::uint64_t kPageBytes = 4096;
  constexpr std::uint64_t kPagesPerShard = 256;

  std::uint64_t total = 0;
  for (const SafetensorsFile& shard : shards_) total += shard.header().file_bytes;

  Xxh3 hash;
  hash.add_text(config_text_);
  hash.add_text(index_text_);
  for (const SafetensorsFile& shard : shards_) {
    const SafetensorsHeader& header = shard.header();
    hash.add_text(shard.path().filename().string());
    hash.add(std::as_bytes(std::span(&header.file_bytes, 1)));
    hash.add(shard.header_bytes());
    const std::span<const std::byte> data = shard.data();
    if (total <= kWholeLimit || data.size() <= kPagesPerShard * kPageBytes) {
      hash.add(data);
      continue;
    }
    const std::uint64_t stride = (data.size() - kPageBytes) / (kPagesPerShard - 1);
    for (std::uint64_t page = 0; page < kPagesPerShard; ++page) {
      hash.add(data.subspan(page * stride, kPageBytes));
    }
  }
  return hash.hex();
}

}  // namespace quern
