// The features of images, kept by content: computed once for all requests and turns that show the
// same image. Must never drop features that a scheduled token still needs.
// Proved by tests/engine/encoder_cache_test.cc.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

namespace quern::engine {

// Names an image: equal hashes mean equal features. Of pixels and processor options, by a function
// that nobody can find collisions of (SHA-256), for a hit shows one client's image to another.
using ImageHash = std::array<std::byte, 32>;

// vLLM's v1/core/encoder_cache_manager.py: room is counted in feature rows; what nobody holds stays
// until its room is needed, least recently held first. Not thread-safe.
class EncoderCache {
 public:
  // `row_floats`: size of a feature row.
  EncoderCache(int capacity_rows, std::size_t row_floats);

  int capacity() const { return capacity_; }
  int used() const { return used_; }

  // Takes a reference when the image is there, also when its features are still to be computed.
  bool acquire(const ImageHash& hash);
  // Makes room for an image that is not there, with one reference; false when what others hold
  // leaves too little.
  bool insert(const ImageHash& hash, int num_rows);
  // Gives a reference back. Features that were never computed go with the last one.
  void release(const ImageHash& hash);

  // The rows of an image that somebody holds, [rows, row_floats].
  std::span<float> features(const ImageHash& hash);
  bool computed(const ImageHash& hash) const;
  void set_computed(const ImageHash& hash);

 private:
  struct Entry {
    std::vector<float> features;
    int rows = 0;
    int references = 0;
    bool computed = false;
    std::list<ImageHash>::iterator place;  // in unheld_, when there are no references
  };
  // Any part of a hash is as good as the whole to find a bucket.
  struct Bucket {
    std::size_t operator()(const ImageHash& hash) const {
      std::size_t value = 0;
      std::memcpy(&value, hash.data(), sizeof value);
      return value;
    }
  };
  using Entries = std::unordered_map<ImageHash, Entry, Bucket>;

  Entry& held(const ImageHash& hash);
  const Entry& held(const ImageHash& hash) const;
  void erase(Entries::iterator entry);

  int capacity_;
  std::size_t row_floats_;
  int used_ = 0;  // rows
  int unheld_rows_ = 0;
  Entries entries_;
  std::list<ImageHash> unheld_;  // least recently held first
};

}  // namespace quern::engine
