// See shard_stream.h.
#include "quern/quantize/shard_stream.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/quantize/ordered_pipeline.h"
#include "quern/quantize/range_reader.h"
#include "quern/quantize/tensor_hash.h"

namespace quern {
namespace {

// A piece, its output and their second reading by measure() stay in a core's cache: measured twice
// as fast as 4 MiB (docs/verification/quantize.md).
constexpr std::uint64_t kMaxPieceBytes = 1u << 20;

// A range of units of a tensor, to be scanned or run.
struct Piece {
  const PlannedTensor* tensor = nullptr;
  Range units;
  bool scan = false;
  bool last = false;  // of the tensor
};

struct Slot {
  std::vector<std::vector<std::byte>> outputs;
  WeightStatistics statistics;
  bool measured = false;
};

void add_pieces(const PlannedTensor& tensor, std::uint64_t piece_bytes, bool scan,
                std::vector<Piece>& pieces) {
  const std::uint64_t total = tensor.kernel->units();
  const std::uint64_t unit_bytes = std::max<std::uint64_t>(1, tensor.kernel->bytes_of({0, 1}));
  const std::uint64_t step = std::max<std::uint64_t>(1, piece_bytes / unit_bytes);
  for (std::uint64_t begin = 0; begin < total; begin += step) {
    const std::uint64_t end = std::min(begin + step, total);
    pieces.push_back({&tensor, {begin, end}, scan, end == total});
  }
}

// One output file and the source files that it is made of. Worker threads read and quantize; the
// calling thread hashes and writes.
class ShardStream {
 public:
  ShardStream(const PlannedShard& shard, ShardFile& file, const StreamLimits& limits,
              bool statistics, const StreamHooks& hooks)
      : shard_(shard), file_(file), limits_(limits), statistics_(statistics), hooks_(hooks) {
    for (const TensorInfo& info : shard.layout.tensors) places_.emplace(info.name, &info);
    for (const PlannedTensor& tensor : shard.tensors) {
      for (const KernelInput& input : tensor.kernel->inputs())
        readers_.try_emplace(input.file, input.file);
    }
    // A slot holds a piece and what becomes of it; a piece is larger only when its one unit is.
    piece_bytes_ = std::clamp<std::uint64_t>(limits.memory_budget_bytes / 32, 4096, kMaxPieceBytes);
    std::uint64_t slot_bytes = 2 * piece_bytes_;
    for (const PlannedTensor& tensor : shard.tensors) {
      slot_bytes = std::max(slot_bytes, tensor.kernel->working_bytes({0, 1}));
    }
    const std::uint64_t for_slots = limits.memory_budget_bytes - max_assembled_bytes();
    slots_.resize(std::clamp<std::size_t>(static_cast<std::size_t>(for_slots / slot_bytes), 1,
                                          4 * limits.threads));
  }

  ShardRecord run() {
    std::vector<Piece> pieces;
    for (const PlannedTensor& tensor : shard_.tensors) {
      if (tensor.kernel->needs_scan()) {
        run_pieces(pieces);
        pieces.clear();
        add_pieces(tensor, piece_bytes_, true, pieces);
        run_pieces(pieces);
        pieces.clear();
      }
      if (tensor.kernel->units() == 0) finish_tensor(tensor);
      add_pieces(tensor, piece_bytes_, false, pieces);
    }
    run_pieces(pieces);
    const std::string& prefix = shard_.layout.prefix;
    record_.header_xxh3 = XXH3_64bits(prefix.data(), prefix.size());
    record_.output_bytes = shard_.layout.file_bytes;
    return std::move(record_);
  }

 private:
  void run_pieces(const std::vector<Piece>& pieces) {
    run_ordered(
        pieces.size(), slots_.size(), limits_.threads,
        [&](std::size_t item, std::size_t slot) { work_on(pieces[item], slots_[slot]); },
        [&](std::size_t item, std::size_t slot) {
          if (!pieces[item].scan) write(pieces[item], slots_[slot]);
          if (hooks_.poll) hooks_.poll();
        });
  }

  void work_on(const Piece& piece, Slot& slot) const {
    // A worker's own, not the slot's: it stays in the cache of its core from piece to piece.
    static thread_local std::vector<std::vector<std::byte>> buffers;
    const TensorKernel& kernel = *piece.tensor->kernel;
    const auto& inputs = kernel.inputs();
    const auto& outputs = kernel.outputs();
    slot.measured = false;
    slot.outputs.resize(outputs.size());
    if (kernel.copies()) return read(inputs[0], piece.units, slot.outputs[0]);
    buffers.resize(std::max(buffers.size(), inputs.size()));
    std::vector<std::span<const std::byte>> in;
    std::vector<std::span<std::byte>> out;
    for (std::size_t i = 0; i < inputs.size(); ++i) {
      read(inputs[i], kernel.input_range(i, piece.units), buffers[i]);
      in.emplace_back(buffers[i]);
    }
    if (piece.scan) return piece.tensor->kernel->scan(piece.units, in);
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      slot.outputs[i].resize(kernel.output_region(i, piece.units).bytes());
      out.emplace_back(slot.outputs[i]);
    }
    kernel.run(piece.units, in, out);
    if (!statistics_ || piece.tensor->action != TensorAction::kQuantize) return;
    slot.statistics = {};
    slot.measured = kernel.measure(piece.units, in, out, slot.statistics);
  }

  void read(const KernelInput& input, Range range, std::vector<std::byte>& out) const {
    out.resize(range.size());
    readers_.at(input.file).read(input.tensor.begin + range.begin, out);
  }

  void write(const Piece& piece, const Slot& slot) {
    const TensorKernel& kernel = *piece.tensor->kernel;
    const auto& outputs = kernel.outputs();
    hashes_.resize(outputs.size());
    assembled_.resize(outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const OutputRegion region = kernel.output_region(i, piece.units);
      const TensorInfo& place = *places_.at(outputs[i].name);
      const bool assemble = region.lines > 1 && place.bytes() <= max_assembled_bytes();
      if (assemble) assembled_[i].resize(place.bytes());
      const std::span<const std::byte> bytes = slot.outputs[i];
      for (std::uint64_t line = 0; line < region.lines; ++line) {
        const std::uint64_t offset = region.offset + line * region.stride;
        const auto part = bytes.subspan(line * region.line_bytes, region.line_bytes);
        if (assemble) {
          std::memcpy(assembled_[i].data() + offset, part.data(), part.size());
        } else {
          write_part(i, place, offset, part);
        }
      }
    }
    if (slot.measured) {
      if (!sum_) sum_.emplace();
      sum_->merge(slot.statistics);
    }
    if (piece.last) finish_tensor(*piece.tensor);
    if (hooks_.progress == nullptr) return;
    for (std::size_t i = 0; i < kernel.inputs().size(); ++i) {
      hooks_.progress->add(kernel.input_range(i, piece.units).size());
    }
  }

  void write_part(std::size_t output, const TensorInfo& place, std::uint64_t offset,
                  std::span<const std::byte> part) {
    file_.write_at(place.begin + offset, part);
    hashes_[output].add(offset, part);
  }

  // Where a format transposes, a piece is many lines of a few bytes. They are put together in
  // memory and written at once, unless the tensor is too large for that.
  std::uint64_t max_assembled_bytes() const { return limits_.memory_budget_bytes / 4; }

  void finish_tensor(const PlannedTensor& tensor) {
    const auto& outputs = tensor.kernel->outputs();
    hashes_.resize(outputs.size());
    assembled_.resize(outputs.size());
    TensorRecord kept{tensor.source.name, tensor.scheme, 0, 0, std::exchange(sum_, std::nullopt)};
    for (const KernelInput& input : tensor.kernel->inputs())
      kept.source_bytes += input.tensor.bytes();
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const TensorInfo& place = *places_.at(outputs[i].name);
      kept.output_bytes += place.bytes();
      if (!assembled_[i].empty()) write_part(i, place, 0, assembled_[i]);
      record_.xxh3[place.name] =
          hashes_[i].finish(place.bytes(), [&](std::uint64_t offset, std::span<std::byte> out) {
            file_.read_at(place.begin + offset, out);
          });
    }
    hashes_.clear();
    assembled_.clear();
    if (tensor.action == TensorAction::kQuantize) record_.tensors.push_back(std::move(kept));
  }

  const PlannedShard& shard_;
  ShardFile& file_;
  StreamLimits limits_;
  bool statistics_;
  const StreamHooks& hooks_;
  std::unordered_map<std::string, const TensorInfo*> places_;  // of output tensors
  std::map<std::filesystem::path, RangeReader> readers_;
  std::uint64_t piece_bytes_ = 0;
  std::vector<Slot> slots_;
  // Of the tensor that is being written.
  std::vector<TensorHash> hashes_;
  std::vector<std::vector<std::byte>> assembled_;  // of outputs whose lines are scattered
  std::optional<WeightStatistics> sum_;
  ShardRecord record_;
};

}  // namespace

ShardRecord stream_shard(const PlannedShard& shard, ShardFile& output, const StreamLimits& limits,
                         bool statistics, const StreamHooks& hooks) {
  return ShardStream(shard, output, limits, statistics, hooks).run();
}

}  // namespace quern
