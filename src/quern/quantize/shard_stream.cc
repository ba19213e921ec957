// See shard_stream.h.
#include "quern/quantize/shard_stream.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <unordered_map>

#include "quern/base/error.h"
#include "quern/numerics/mxfp4.h"
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

// What a piece of work writes. kBoth writes packed codes and keeps the scales for behind the
// tensor.
enum class Emit { kCopy, kCast, kBoth, kPacked, kScales };

// Elements [begin, begin + count) of a source tensor; blocks of 32 never cross rows, so rows do not
// matter.
struct Piece {
  const PlannedTensor* tensor = nullptr;
  Emit emit = Emit::kCopy;
  std::uint64_t begin = 0;
  std::uint64_t count = 0;
  bool last = false;
};

struct Slot {
  std::vector<std::byte> source;
  std::vector<std::byte> output;
  std::vector<std::uint8_t> scales;
};

// The pieces in the order in which the output file needs them.
std::vector<Piece> make_pieces(const PlannedShard& shard, std::uint64_t piece_bytes,
                               std::uint64_t max_kept_scales) {
  std::unordered_map<std::string_view, const PlannedTensor*> by_output;
  std::unordered_map<std::string_view, const PlannedTensor*> by_scale;
  std::vector<std::string> scale_names;
  scale_names.reserve(shard.tensors.size());
  for (const PlannedTensor& tensor : shard.tensors) {
    by_output.emplace(tensor.source.name, &tensor);
    if (tensor.action != TensorAction::kQuantize) continue;
    scale_names.push_back(tensor.source.name + "_scale");
    by_scale.emplace(scale_names.back(), &tensor);
  }
  std::vector<Piece> pieces;
  const PlannedTensor* kept = nullptr;  // its scales follow its codes without a piece of their own
  const auto& outputs = shard.layout.tensors;
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    Piece piece;
    if (const auto scale = by_scale.find(outputs[i].name); scale != by_scale.end()) {
      if (scale->second == kept) continue;
      piece.tensor = scale->second;
      piece.emit = Emit::kScales;
    } else {
      piece.tensor = by_output.at(outputs[i].name);
      switch (piece.tensor->action) {
        case TensorAction::kCopy:
          piece.emit = Emit::kCopy;
          break;
        case TensorAction::kCast:
          piece.emit = Emit::kCast;
          break;
        case TensorAction::kQuantize: {
          const bool adjacent =
              i + 1 < outputs.size() && outputs[i + 1].name == piece.tensor->source.name + "_scale";
          const bool small = adjacent && outputs[i + 1].bytes() <= max_kept_scales;
          piece.emit = small ? Emit::kBoth : Emit::kPacked;
          if (small) kept = piece.tensor;
          break;
        }
      }
    }
    const TensorInfo& source = piece.tensor->source;
    const std::uint64_t element_bytes = dtype_bytes(source.dtype);
    const std::uint64_t total = source.bytes() / element_bytes;
    const std::uint64_t step = piece_bytes / element_bytes / kMxBlock * kMxBlock;
    for (piece.begin = 0; piece.begin < total; piece.begin += step) {
      piece.count = std::min(step, total - piece.begin);
      piece.last = piece.begin + piece.count == total;
      pieces.push_back(piece);
    }
  }
  return pieces;
}

template <typename T>
std::span<const T> elements(const Slot& slot) {
  return {reinterpret_cast<const T*>(slot.source.data()), slot.source.size() / sizeof(T)};
}

void widen(DType dtype, const Slot& slot, std::vector<float>& out) {
  out.resize(slot.source.size() / dtype_bytes(dtype));
  if (dtype == DType::kBF16) {
    bf16_to_float(elements<BF16>(slot), out);
  } else if (dtype == DType::kF16) {
    fp16_to_float(elements<FP16>(slot), out);
  } else {
    std::ranges::copy(elements<float>(slot), out.begin());
  }
}

[[noreturn]] void throw_not_finite(const Piece& piece, const Slot& slot) {
  const TensorInfo& tensor = piece.tensor->source;
  std::vector<float> values;
  widen(tensor.dtype, slot, values);
  const auto bad =
      std::find_if(values.begin(), values.end(), [](float v) { return !std::isfinite(v); });
  QUERN_CHECK(bad != values.end());
  std::uint64_t rest = piece.begin + static_cast<std::uint64_t>(bad - values.begin());
  Shape index(tensor.shape.size());
  for (std::size_t d = index.size(); d-- > 0;) {
    const auto size = static_cast<std::uint64_t>(tensor.shape[d]);
    index[d] = static_cast<std::int64_t>(rest % size);
    rest /= size;
  }
  throw Error("tensor '{}' holds {} at index {}; a weight to be quantized must be finite",
              tensor.name, std::isnan(*bad) ? "NaN" : "Inf", shape_text(index));
}

void encode(const Piece& piece, Slot& slot) {
  slot.output.resize(piece.count / 2);
  slot.scales.resize(piece.count / kMxBlock);
  const std::span<std::uint8_t> packed(reinterpret_cast<std::uint8_t*>(slot.output.data()),
                                       slot.output.size());
  bool finite = false;
  switch (piece.tensor->source.dtype) {
    case DType::kBF16:
      finite = mxfp4_encode_row(elements<BF16>(slot), packed, slot.scales);
      break;
    case DType::kF16:
      finite = mxfp4_encode_row(elements<FP16>(slot), packed, slot.scales);
      break;
    default:
      finite = mxfp4_encode_row(elements<float>(slot), packed, slot.scales);
      break;
  }
  if (!finite) throw_not_finite(piece, slot);
}

void cast(const Piece& piece, Slot& slot) {
  std::vector<float> values;
  widen(piece.tensor->source.dtype, slot, values);
  const DType to = piece.tensor->cast_to;
  slot.output.resize(values.size() * dtype_bytes(to));
  if (to == DType::kBF16) {
    float_to_bf16(values, {reinterpret_cast<BF16*>(slot.output.data()), values.size()});
  } else if (to == DType::kF16) {
    float_to_fp16(values, {reinterpret_cast<FP16*>(slot.output.data()), values.size()});
  } else {
    std::ranges::copy(std::as_bytes(std::span(values)), slot.output.begin());
  }
}

void work_on(const Piece& piece, const RangeReader& reader, Slot& slot) {
  const TensorInfo& source = piece.tensor->source;
  const std::uint64_t element_bytes = dtype_bytes(source.dtype);
  slot.source.resize(piece.count * element_bytes);
  reader.read(source.begin + piece.begin * element_bytes, slot.source);
  switch (piece.emit) {
    case Emit::kCopy:
      break;
    case Emit::kCast:
      cast(piece, slot);
      break;
    case Emit::kBoth:
    case Emit::kPacked:
    case Emit::kScales:
      encode(piece, slot);
      break;
  }
}

}  // namespace

void stream_shard(const PlannedShard& shard, const std::filesystem::path& output,
                  const StreamLimits& limits, Progress& progress) {
  // A slot holds a source piece and at most twice as much output (F16 cast to F32); an eighth of
  // the budget is for kept scales.
  const std::uint64_t piece_bytes =
      std::clamp<std::uint64_t>(limits.memory_budget_bytes / 32, 4096, kMaxPieceBytes);
  const std::size_t slots = std::clamp<std::size_t>(
      static_cast<std::size_t>(limits.memory_budget_bytes / (4 * piece_bytes)), 2,
      4 * limits.threads);
  const auto pieces = make_pieces(shard, piece_bytes, limits.memory_budget_bytes / 8);
  const RangeReader reader(shard.source);
  SafetensorsWriter writer(output, shard.layout);
  std::vector<Slot> buffers(slots);
  std::vector<std::uint8_t> kept_scales;
  const auto take = [&](std::size_t item, std::size_t slot_index) {
    const Piece& piece = pieces[item];
    const Slot& slot = buffers[slot_index];
    switch (piece.emit) {
      case Emit::kCopy:
        writer.write(slot.source);
        break;
      case Emit::kCast:
      case Emit::kPacked:
        writer.write(slot.output);
        break;
      case Emit::kScales:
        writer.write(std::as_bytes(std::span(slot.scales)));
        break;
      case Emit::kBoth:
        writer.write(slot.output);
        kept_scales.insert(kept_scales.end(), slot.scales.begin(), slot.scales.end());
        if (piece.last) {
          writer.write(std::as_bytes(std::span(kept_scales)));
          kept_scales.clear();
        }
        break;
    }
    if (piece.emit != Emit::kScales) progress.add(slot.source.size());
  };
  run_ordered(
      pieces.size(), slots, limits.threads,
      [&](std::size_t item, std::size_t slot) { work_on(pieces[item], reader, buffers[slot]); },
      take);
  writer.commit();
}

}  // namespace quern
