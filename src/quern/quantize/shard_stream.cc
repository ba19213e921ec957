// See shard_stream.h.
#include "quern/quantize/shard_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/quantize/ordered_pipeline.h"

namespace quern {
namespace {

constexpr std::uint64_t kMaxPieceBytes = 4u << 20;

// A file read by ranges; what was read is dropped from the page cache.
class RangeReader {
 public:
  explicit RangeReader(const std::filesystem::path& path)
      : path_(path), fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (fd_ < 0) throw_errno(fmt::format("cannot open '{}'", path.string()));
  }
  RangeReader(const RangeReader&) = delete;
  RangeReader& operator=(const RangeReader&) = delete;
  ~RangeReader() { ::close(fd_); }

  void read(std::uint64_t offset, std::span<std::byte> out) const {
    const std::uint64_t begin = offset;
    for (std::span<std::byte> rest = out; !rest.empty();) {
      const ssize_t got = ::pread(fd_, rest.data(), rest.size(), static_cast<off_t>(offset));
      if (got < 0 && errno == EINTR) continue;
      if (got < 0) throw_errno(fmt::format("cannot read '{}'", path_.string()));
      if (got == 0) throw Error("'{}' became shorter while it was read", path_.string());
      rest = rest.subspan(static_cast<std::size_t>(got));
      offset += static_cast<std::uint64_t>(got);
    }
    ::posix_fadvise(fd_, static_cast<off_t>(begin), static_cast<off_t>(out.size()),
                    POSIX_FADV_DONTNEED);
  }

 private:
  std::filesystem::path path_;
  int fd_;
};

// A range of units of a kernel, to be scanned or run.
struct Piece {
  TensorKernel* kernel = nullptr;
  Range units;
  bool scan = false;
};

struct Slot {
  std::vector<std::vector<std::byte>> inputs;
  std::vector<std::vector<std::byte>> outputs;
};

void add_pieces(TensorKernel& kernel, std::uint64_t piece_bytes, bool scan,
                std::vector<Piece>& pieces) {
  const std::uint64_t total = kernel.units();
  if (total == 0) return;
  const std::uint64_t step =
      std::max<std::uint64_t>(1, piece_bytes / std::max<std::uint64_t>(1, kernel.bytes_of({0, 1})));
  for (std::uint64_t begin = 0; begin < total; begin += step) {
    pieces.push_back({&kernel, {begin, std::min(begin + step, total)}, scan});
  }
}

// One output file and the source files that it is made of.
class ShardStream {
 public:
  ShardStream(const PlannedShard& shard, const std::filesystem::path& output,
              const StreamLimits& limits, Progress& progress)
      : limits_(limits), progress_(progress), writer_(output, shard.layout) {
    for (const TensorInfo& info : writer_.layout().tensors) offsets_.emplace(info.name, info.begin);
    for (const PlannedTensor& tensor : shard.tensors) {
      for (const KernelInput& input : tensor.kernel->inputs())
        readers_.try_emplace(input.file, input.file);
    }
    // A slot holds a piece and what becomes of it.
    piece_bytes_ = std::clamp<std::uint64_t>(limits.memory_budget_bytes / 32, 4096, kMaxPieceBytes);
    slots_.resize(std::clamp<std::size_t>(
        static_cast<std::size_t>(limits.memory_budget_bytes / (2 * piece_bytes_)), 2,
        4 * limits.threads));
  }

  void run(const PlannedShard& shard) {
    std::vector<Piece> pieces;
    for (const PlannedTensor& tensor : shard.tensors) {
      if (tensor.kernel->needs_scan()) {
        run_pieces(pieces);
        pieces.clear();
        add_pieces(*tensor.kernel, piece_bytes_, true, pieces);
        run_pieces(pieces);
        pieces.clear();
      }
      add_pieces(*tensor.kernel, piece_bytes_, false, pieces);
    }
    run_pieces(pieces);
    writer_.commit();
  }

 private:
  void run_pieces(const std::vector<Piece>& pieces) {
    run_ordered(
        pieces.size(), slots_.size(), limits_.threads,
        [&](std::size_t item, std::size_t slot) { work_on(pieces[item], slots_[slot]); },
        [&](std::size_t item, std::size_t slot) { write(pieces[item], slots_[slot]); });
  }

  void work_on(const Piece& piece, Slot& slot) const {
    const auto& inputs = piece.kernel->inputs();
    const auto& outputs = piece.kernel->outputs();
    slot.inputs.resize(inputs.size());
    slot.outputs.resize(outputs.size());
    std::vector<std::span<const std::byte>> in;
    std::vector<std::span<std::byte>> out;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      const Range range = piece.kernel->input_range(i, piece.units);
      slot.inputs[i].resize(range.size());
      readers_.at(inputs[i].file).read(inputs[i].tensor.begin + range.begin, slot.inputs[i]);
      in.emplace_back(slot.inputs[i]);
    }
    if (piece.scan) return piece.kernel->scan(piece.units, in);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      slot.outputs[i].resize(piece.kernel->output_region(i, piece.units).bytes());
      out.emplace_back(slot.outputs[i]);
    }
    piece.kernel->run(piece.units, in, out);
  }

  void write(const Piece& piece, const Slot& slot) {
    if (piece.scan) return;
    const auto& outputs = piece.kernel->outputs();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const OutputRegion region = piece.kernel->output_region(i, piece.units);
      const std::uint64_t base = offsets_.at(outputs[i].name) + region.offset;
      const std::span<const std::byte> bytes = slot.outputs[i];
      for (std::uint64_t line = 0; line < region.lines; ++line) {
        writer_.write_at(base + line * region.stride,
                         bytes.subspan(line * region.line_bytes, region.line_bytes));
      }
    }
    for (const auto& input : slot.inputs) progress_.add(input.size());
  }

  StreamLimits limits_;
  Progress& progress_;
  SafetensorsWriter writer_;
  std::unordered_map<std::string, std::uint64_t> offsets_;  // of output tensors
  std::map<std::filesystem::path, RangeReader> readers_;
  std::uint64_t piece_bytes_ = 0;
  std::vector<Slot> slots_;
};

}  // namespace

void stream_shard(const PlannedShard& shard, const std::filesystem::path& output,
                  const StreamLimits& limits, Progress& progress) {
  ShardStream(shard, output, limits, progress).run(shard);
}

}  // namespace quern
