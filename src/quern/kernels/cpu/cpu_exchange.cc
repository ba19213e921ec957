// See cpu_exchange.h.
#include "quern/kernels/cpu/cpu_exchange.h"

#include <algorithm>
#include <cstring>

#include "quern/kernels/cpu/mxfp4_dot.h"

namespace quern::kernels {
namespace {

constexpr std::int64_t kMessageBytes = 32 << 20;  // of all ranks together
constexpr std::int64_t kGrain = 8;                // rows

// How many rows of `row_bytes` (of all ranks together) one message carries.
std::int64_t message_rows(std::int64_t row_bytes) {
  return std::max<std::int64_t>(1, kMessageBytes / std::max<std::int64_t>(row_bytes, 1));
}

template <typename T>
std::span<std::byte> bytes_of(T* data, std::int64_t count) {
  return std::as_writable_bytes(std::span(data, static_cast<std::size_t>(count)));
}

void to_bf16(const float* from, std::int64_t count, BF16* to) {
  float_to_bf16(std::span(from, static_cast<std::size_t>(count)),
                std::span(to, static_cast<std::size_t>(count)));
}

void to_floats(const BF16* from, std::int64_t count, float* to) {
  bf16_to_float(std::span(from, static_cast<std::size_t>(count)),
                std::span(to, static_cast<std::size_t>(count)));
}

Rows behind(Rows rows, std::int64_t count) {
  return {rows.data + count * rows.stride, rows.stride};
}

}  // namespace

BF16* CpuExchange::pack(Rows from, std::int64_t rows, std::int64_t cols) {
  BF16* mine = mine_.reserve(rows * cols);
  team_.parallel_for(rows, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      to_bf16(from.data + r * from.stride, cols, mine + r * cols);
  });
  return mine;
}

// all [size][rows][cols], to [rows][size * cols].
void CpuExchange::place(const BF16* all, std::int64_t rows, std::int64_t cols, Rows to) {
  team_.parallel_for(rows, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (int from = 0; from < size(); ++from)
        to_floats(all + (from * rows + r) * cols, cols, to.data + r * to.stride + from * cols);
    }
  });
}

void CpuExchange::gather_columns(Rows from, std::int64_t rows, std::int64_t cols, Rows to) {
  const std::int64_t most = message_rows(2 * size() * cols);
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t count = std::min(most, rows - first);
    BF16* mine = pack(behind(from, first), count, cols);
    BF16* all = all_.reserve(size() * count * cols);
    communicator_->all_gather(bytes_of(mine, count * cols), bytes_of(all, size() * count * cols));
    place(all, count, cols, behind(to, first));
  }
}

void CpuExchange::gather_to_first(Rows from, std::int64_t rows, std::int64_t cols, Rows to) {
  const std::int64_t most = message_rows(2 * size() * cols);
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t count = std::min(most, rows - first);
    BF16* mine = pack(behind(from, first), count, cols);
    const std::int64_t size_of_all = rank() == 0 ? size() * count * cols : 0;
    BF16* all = all_.reserve(size_of_all);
    communicator_->gather(0, bytes_of(mine, count * cols), bytes_of(all, size_of_all));
    if (rank() == 0) place(all, count, cols, behind(to, first));
  }
}

void CpuExchange::gather_mxfp4(Rows from, std::int64_t rows, std::int64_t cols) {
  const std::int64_t codes = cols / 2;
  const std::int64_t scales = cols / 32;
  const std::int64_t bytes = codes + scales;
  packed_bytes_ = size() * bytes;
  std::uint8_t* result = packed_rows_.reserve(rows * packed_bytes_);
  const std::int64_t most = message_rows(packed_bytes_);
  for (std::int64_t first = 0; first < rows; first += most) {
    const std::int64_t count = std::min(most, rows - first);
    std::uint8_t* mine = packed_.reserve(count * bytes);
    std::uint8_t* all = packed_all_.reserve(count * packed_bytes_);
    team_.parallel_for(count, 1, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) {
        const float* row = from.data + (first + r) * from.stride;
        pack_row({row, static_cast<std::size_t>(cols)}, mine + r * bytes, mine + r * bytes + codes);
      }
    });
    communicator_->all_gather(bytes_of(mine, count * bytes), bytes_of(all, count * packed_bytes_));
    team_.parallel_for(count, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
      for (std::int64_t r = begin; r < end; ++r) {
        std::uint8_t* to = result + (first + r) * packed_bytes_;
        for (int rank = 0; rank < size(); ++rank) {
          const std::uint8_t* part = all + (rank * count + r) * bytes;
          std::memcpy(to + rank * codes, part, static_cast<std::size_t>(codes));
          std::memcpy(to + size() * codes + rank * scales, part + codes,
                      static_cast<std::size_t>(scales));
        }
      }
    });
  }
}

const std::uint8_t* CpuExchange::gathered_row(std::int64_t row) const {
  return packed_rows_.data() + row * packed_bytes_;
}

void CpuExchange::share_rows(Rows rows, std::int64_t cols, std::span<const std::int32_t> owners) {
  const auto total = static_cast<std::int64_t>(owners.size());
  const std::int64_t most = message_rows(2 * cols);
  for (std::int64_t first = 0; first < total; first += most) {
    const auto some = owners.subspan(static_cast<std::size_t>(first),
                                     static_cast<std::size_t>(std::min(most, total - first)));
    const auto count = static_cast<std::int64_t>(some.size());
    receive_counts_.assign(static_cast<std::size_t>(size()), 0);
    BF16* mine = mine_.reserve(count * cols);
    std::int64_t own = 0;
    for (std::int64_t i = 0; i < count; ++i) {
      const std::int32_t owner = some[static_cast<std::size_t>(i)];
      receive_counts_[static_cast<std::size_t>(owner)] +=
          static_cast<std::size_t>(cols) * sizeof(BF16);
      if (owner != rank()) continue;
      to_bf16(rows.data + (first + i) * rows.stride, cols, mine + own++ * cols);
    }
    BF16* all = all_.reserve(count * cols);
    communicator_->all_gather_v(bytes_of(mine, own * cols), receive_counts_,
                                bytes_of(all, count * cols));
    next_row_.assign(static_cast<std::size_t>(size()), 0);
    for (std::size_t r = 1; r < next_row_.size(); ++r) {
      next_row_[r] = next_row_[r - 1] + static_cast<std::int64_t>(receive_counts_[r - 1]) /
                                            (cols * static_cast<std::int64_t>(sizeof(BF16)));
    }
    for (std::int64_t i = 0; i < count; ++i) {
      const auto owner = static_cast<std::size_t>(some[static_cast<std::size_t>(i)]);
      to_floats(all + next_row_[owner]++ * cols, cols, rows.data + (first + i) * rows.stride);
    }
  }
}

void CpuExchange::rows_to_columns(Rows from, std::span<const std::int64_t> counts,
                                  std::int64_t cols, Rows to) {
  const std::int64_t own = counts[static_cast<std::size_t>(rank())];
  std::int64_t total = 0;
  for (const std::int64_t count : counts) total += count;
  BF16* send = mine_.reserve(own * size() * cols);
  BF16* receive = all_.reserve(total * cols);
  team_.parallel_for(own, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r) {
      for (int rank = 0; rank < size(); ++rank) {
        to_bf16(from.data + r * from.stride + rank * cols, cols, send + (rank * own + r) * cols);
      }
    }
  });
  const auto row_bytes = static_cast<std::size_t>(cols) * sizeof(BF16);
  send_counts_.assign(static_cast<std::size_t>(size()), static_cast<std::size_t>(own) * row_bytes);
  receive_counts_.clear();
  for (const std::int64_t count : counts)
    receive_counts_.push_back(static_cast<std::size_t>(count) * row_bytes);
  communicator_->all_to_all_v(bytes_of(send, own * size() * cols), send_counts_,
                              bytes_of(receive, total * cols), receive_counts_);
  team_.parallel_for(total, kGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t r = begin; r < end; ++r)
      to_floats(receive + r * cols, cols, to.data + r * to.stride);
  });
}

}  // namespace quern::kernels
