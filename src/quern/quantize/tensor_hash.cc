// See tensor_hash.h.
#include "quern/quantize/tensor_hash.h"

#include <algorithm>
#include <vector>

#include "quern/base/error.h"

namespace quern {

TensorHash::TensorHash() : state_(XXH3_createState()) {
  QUERN_CHECK(state_ != nullptr);
  XXH3_64bits_reset(state_.get());
}

void TensorHash::add(std::uint64_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return;
  in_order_ = in_order_ && offset == next_;
  if (!in_order_) return;
  XXH3_64bits_update(state_.get(), bytes.data(), bytes.size());
  next_ += bytes.size();
}

std::uint64_t TensorHash::finish(
    std::uint64_t tensor_bytes,
    const std::function<void(std::uint64_t, std::span<std::byte>)>& read) const {
  if (in_order_) {
    QUERN_CHECK(next_ == tensor_bytes, "{} of {} bytes", next_, tensor_bytes);
    return XXH3_64bits_digest(state_.get());
  }
  constexpr std::uint64_t kPiece = 1u << 20;
  std::vector<std::byte> piece(static_cast<std::size_t>(std::min(kPiece, tensor_bytes)));
  XXH3_64bits_reset(state_.get());
  for (std::uint64_t offset = 0; offset < tensor_bytes; offset += kPiece) {
    const std::span<std::byte> part =
        std::span(piece).first(static_cast<std::size_t>(std::min(kPiece, tensor_bytes - offset)));
    read(offset, part);
    XXH3_64bits_update(state_.get(), part.data(), part.size());
  }
  return XXH3_64bits_digest(state_.get());
}

}  // namespace quern
