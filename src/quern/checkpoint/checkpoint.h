// A checkpoint directory: config.json, the index, the mapped shards, one look-up by tensor name.
// Must never copy tensor data or read more of it than content_hash() samples.
// Proved by tests/checkpoint/checkpoint_test.cc.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "quern/base/json.h"
#include "quern/base/tensor_view.h"
#include "quern/checkpoint/safetensors.h"

namespace quern {

// model.safetensors.index.json. `metadata` is ignored: its total_size is wrong in released models.
struct SafetensorsIndex {
  // Tensor name to file name, in file order. File names are plain relative paths inside the
  // directory.
  std::vector<std::pair<std::string, std::string>> weight_map;
};
SafetensorsIndex parse_safetensors_index(std::string_view text, std::string_view source);

// Immutable and movable; safe to share between threads. Views live as long as the checkpoint.
class Checkpoint {
 public:
  struct Tensor {
    std::string_view name;
    TensorView view;
    std::size_t shard = 0;  // position in shards()
  };

  // Maps every shard and proves that index and shards agree. Needs a config.json.
  static Checkpoint open(const std::filesystem::path& directory);

  const std::filesystem::path& directory() const { return directory_; }
  const Json& config() const { return config_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  // All tensors, shard by shard, each shard in the order of its header.
  const std::vector<Tensor>& tensors() const { return tensors_; }

  // nullptr when there is no tensor of that name.
  const TensorView* find(std::string_view name) const;
  // Throws an Error that names the tensor and the directory.
  const TensorView& get(std::string_view name) const;
  // The file that holds a tensor; the name must exist.
  const std::filesystem::path& shard_of(std::string_view name) const;

  // A stable identity, 32 hex digits, independent of the directory's name and of file times: xxh3
  // over config.json, the index, and each shard's name, size, header and data (all of the data up
  // to 1 GiB in total, evenly spread pages of each shard beyond that).
  std::string content_hash() const;

 private:
  Checkpoint() = default;
  const Tensor& at(std::string_view name) const;

  std::filesystem::path directory_;
  std::string config_text_;
  std::string index_text_;  // empty without an index
  Json config_;
  std::vector<SafetensorsFile> shards_;
  std::vector<Tensor> tensors_;
  std::unordered_map<std::string_view, std::size_t> by_name_;
};

}  // namespace quern
