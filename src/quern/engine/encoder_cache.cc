#include "quern/engine/encoder_cache.h"

#include "quern/base/error.h"

namespace quern::engine {

EncoderCache::EncoderCache(int capacity_rows, std::size_t row_floats)
    : capacity_(capacity_rows), row_floats_(row_floats) {
  QUERN_CHECK(capacity_rows >= 0);
}

bool EncoderCache::acquire(const ImageHash& hash) {
  const auto found = entries_.find(hash);
  if (found == entries_.end()) return false;
  Entry& entry = found->second;
  if (entry.references++ == 0) {
    unheld_.erase(entry.place);
    unheld_rows_ -= entry.rows;
  }
  return true;
}

bool EncoderCache::insert(const ImageHash& hash, int num_rows) {
  QUERN_CHECK(num_rows > 0 && !entries_.contains(hash));
  if (num_rows > capacity_ - used_ + unheld_rows_) return false;
  while (num_rows > capacity_ - used_) {
    unheld_rows_ -= entries_.at(unheld_.front()).rows;
    erase(entries_.find(unheld_.front()));
    unheld_.pop_front();
  }
  Entry entry;
  entry.features.resize(static_cast<std::size_t>(num_rows) * row_floats_);
  entry.rows = num_rows;
  entry.references = 1;
  used_ += num_rows;
  entries_.emplace(hash, std::move(entry));
  return true;
}

void EncoderCache::release(const ImageHash& hash) {
  const auto found = entries_.find(hash);
  QUERN_CHECK(found != entries_.end() && found->second.references > 0,
              "an image is released twice");
  Entry& entry = found->second;
  if (--entry.references > 0) return;
  if (!entry.computed) return erase(found);
  entry.place = unheld_.insert(unheld_.end(), hash);
  unheld_rows_ += entry.rows;
}

void EncoderCache::erase(Entries::iterator entry) {
  used_ -= entry->second.rows;
  entries_.erase(entry);
}

EncoderCache::Entry& EncoderCache::held(const ImageHash& hash) {
  const auto found = entries_.find(hash);
  QUERN_CHECK(found != entries_.end() && found->second.references > 0, "an image is not held");
  return found->second;
}

const EncoderCache::Entry& EncoderCache::held(const ImageHash& hash) const {
  return const_cast<EncoderCache*>(this)->held(hash);
}

std::span<float> EncoderCache::features(const ImageHash& hash) { return held(hash).features; }
bool EncoderCache::computed(const ImageHash& hash) const { return held(hash).computed; }
void EncoderCache::set_computed(const ImageHash& hash) { held(hash).computed = true; }

}  // namespace quern::engine
