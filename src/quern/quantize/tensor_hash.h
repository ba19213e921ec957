// The xxh3 hash of an output tensor while it is written, without keeping its bytes.
// Must never give another hash than XXH3_64bits of the whole tensor.
// Proved by tests/quantize/tensor_hash_test.cc.
#pragma once

#include <xxhash.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>

namespace quern {

// Bytes that come in their order are hashed on the way; a tensor written in another order (formats
// that transpose) is read once more by finish().
class TensorHash {
 public:
  TensorHash();

  void add(std::uint64_t offset, std::span<const std::byte> bytes);
  // `read(offset, out)` fills `out` with bytes of the tensor.
  std::uint64_t finish(std::uint64_t tensor_bytes,
                       const std::function<void(std::uint64_t, std::span<std::byte>)>& read) const;

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
  std::uint64_t next_ = 0;
  bool in_order_ = true;
};

}  // namespace quern
