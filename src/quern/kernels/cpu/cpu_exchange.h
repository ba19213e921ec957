// Activations between the ranks of a model: columns that are computed apart are put side by side.
// Must never change a value: what travels as BF16 is BF16-valued, there are no partial sums.
// Proved by tests/model/parallel_test.cc (results of several ranks against one, bit for bit).
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "quern/base/thread_team.h"
#include "quern/distributed/communicator.h"
#include "quern/kernels/host_memory.h"

namespace quern::kernels {

// Rows of values in host memory; row i begins at data + i * stride.
struct Rows {
  float* data = nullptr;
  std::int64_t stride = 0;
};

// Every rank makes the same calls with the same sizes. Messages are cut so that buffers stay
// bounded.
class CpuExchange {
 public:
  // A null communicator is one rank alone: nothing may then be called but rank() and size().
  CpuExchange(Communicator* communicator, ThreadTeam& team)
      : communicator_(communicator), team_(team) {}

  int rank() const { return communicator_ == nullptr ? 0 : communicator_->rank(); }
  int size() const { return communicator_ == nullptr ? 1 : communicator_->size(); }

  // to [rows, size * cols] = the ranks' from [rows, cols] side by side, BF16-valued.
  void gather_columns(Rows from, std::int64_t rows, std::int64_t cols, Rows to);

  // The same for rows of MXFP4: [rows] of cols values quantized here, to be unpacked with
  // gathered_row().
  void gather_mxfp4(Rows from, std::int64_t rows, std::int64_t cols);
  // Row of the last gather_mxfp4(): size * cols / 2 bytes, then size * cols / 32 scales.
  const std::uint8_t* gathered_row(std::int64_t row) const;

  // Rows [rows, cols] that are complete on one rank each, owners[i] says which: on all ranks.
  void share_rows(Rows rows, std::int64_t cols, std::span<const std::int32_t> owners);

  // `from` [counts[rank], size * cols]: rows that this rank has computed, of all columns; `to` [sum
  // of counts, cols]: the rows of all ranks, rank by rank, of this rank's columns.
  void rows_to_columns(Rows from, std::span<const std::int64_t> counts, std::int64_t cols, Rows to);

  // to [rows, size * cols] on rank 0 only.
  void gather_to_first(Rows from, std::int64_t rows, std::int64_t cols, Rows to);

 private:
  BF16* pack(Rows from, std::int64_t rows, std::int64_t cols);
  void place(const BF16* all, std::int64_t rows, std::int64_t cols, Rows to);

  Communicator* communicator_;
  ThreadTeam& team_;
  Scratch<BF16> mine_, all_;
  Scratch<std::uint8_t> packed_, packed_all_, packed_rows_;
  std::int64_t packed_bytes_ = 0;  // of a gathered row
  std::vector<std::size_t> send_counts_, receive_counts_;
  std::vector<std::int64_t> next_row_;
};

}  // namespace quern::kernels
