#include "quern/engine/sequence.h"

namespace quern::engine {
namespace {

void append_number(std::int32_t value, std::string& key) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

}  // namespace

// Parts begin with a letter and have a known length, so none can be taken for another.
std::vector<std::string> make_prefix_keys(std::string_view cache_salt,
                                          std::span<const SequenceImage> images) {
  std::vector<std::string> keys;
  if (!cache_salt.empty()) {
    keys.emplace_back("s");
    append_number(static_cast<std::int32_t>(cache_salt.size()), keys[0]);
    keys[0] += cache_salt;
  }
  for (const SequenceImage& image : images) {
    const int last = (image.end() - 1) / kBlockTokens;
    if (static_cast<int>(keys.size()) <= last) keys.resize(static_cast<std::size_t>(last) + 1);
    for (int block = image.offset / kBlockTokens; block <= last; ++block) {
      std::string& key = keys[static_cast<std::size_t>(block)];
      key += 'i';
      key.append(reinterpret_cast<const char*>(image.hash.data()), image.hash.size());
      append_number(image.offset - block * kBlockTokens, key);
      append_number(image.first_row, key);
    }
  }
  return keys;
}

}  // namespace quern::engine
