// Parsing of safetensors headers; see safetensors.h.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <unordered_set>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/json.h"
#include "quern/checkpoint/safetensors.h"

namespace quern {
namespace {

static_assert(std::endian::native == std::endian::little, "safetensors data is little-endian");

// More dimensions than any tensor library has; bounds what one tensor can make us allocate.
constexpr std::size_t kMaxRank = 32;
constexpr std::uint64_t kLengthBytes = 8;

// Receives {"name": {"dtype": "...", "shape": [...], "data_offsets": [b, e]}, "__metadata__":
// {...}}. nlohmann's SAX events say nothing about the place in the document, so the place is kept
// here.
class HeaderSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  struct Entry {
    TensorInfo info;  // begin and end relative to the data
    bool has_dtype = false, has_shape = false, has_offsets = false;
  };

  bool start_object(std::size_t) override {
    switch (place_) {
      case Place::kStart:
        return go(Place::kTop);
      case Place::kTensorOrMetadata:
        return go(in_metadata_ ? Place::kMetadata : Place::kTensor);
      default:
        wrong("an object");
    }
  }

  bool key(string_t& name) override {
    if (place_ == Place::kTop) {
      if (!names_.insert(name).second) throw Error("duplicate tensor name '{}'", name);
      in_metadata_ = name == "__metadata__";
      if (!in_metadata_) {
        entries_.emplace_back();
        entries_.back().info.name = name;
      }
      return go(Place::kTensorOrMetadata);
    }
    if (place_ == Place::kMetadata) {
      if (!metadata_keys_.insert(name).second) throw Error("duplicate __metadata__ key '{}'", name);
      key_ = name;
      return go(Place::kMetadataValue);
    }
    Entry& entry = entries_.back();
    if (name == "dtype") return field(entry.has_dtype, name, Place::kDtype);
    if (name == "shape") return field(entry.has_shape, name, Place::kShape);
    if (name == "data_offsets") return field(entry.has_offsets, name, Place::kOffsets);
    throw Error("tensor '{}': unknown key '{}'", entry.info.name, name);
  }

  bool string(string_t& value) override {
    if (place_ == Place::kMetadataValue) return go(Place::kMetadata);
    if (place_ != Place::kDtype) wrong("a string");
    TensorInfo& info = entries_.back().info;
    const std::optional<DType> dtype = dtype_from_name(value);
    if (!dtype) throw Error("tensor '{}': unknown dtype '{}'", info.name, value);
    info.dtype = *dtype;
    return go(Place::kTensor);
  }

  bool start_array(std::size_t) override {
    if (place_ == Place::kShape) return go(Place::kShapeItem);
    if (place_ == Place::kOffsets) return go(Place::kOffsetItem);
    wrong("an array");
  }

  bool number_unsigned(number_unsigned_t value) override {
    if (place_ == Place::kShapeItem) {
      TensorInfo& info = entries_.back().info;
      if (value > std::numeric_limits<std::int64_t>::max()) {
        throw Error("tensor '{}': shape: {} is too large", info.name, value);
      }
      if (info.shape.size() == kMaxRank) {
        throw Error("tensor '{}': shape: more than {} dimensions", info.name, kMaxRank);
      }
      info.shape.push_back(static_cast<std::int64_t>(value));
      return true;
    }
    if (place_ != Place::kOffsetItem) wrong(fmt::format("{}", value));
    if (num_offsets_ == offsets_.size()) {
      throw Error("tensor '{}': data_offsets: expected two numbers, found more", name());
    }
    offsets_[num_offsets_++] = value;
    return true;
  }

  bool end_array() override {
    if (place_ == Place::kOffsetItem) {
      if (num_offsets_ != offsets_.size()) {
        throw Error("tensor '{}': data_offsets: expected two numbers, found {}", name(),
                    num_offsets_);
      }
      entries_.back().info.begin = offsets_[0];
      entries_.back().info.end = offsets_[1];
      num_offsets_ = 0;
    }
    return go(Place::kTensor);
  }

  bool end_object() override {
    if (place_ == Place::kTensor) {
      const Entry& entry = entries_.back();
      const char* missing = !entry.has_dtype     ? "dtype"
                            : !entry.has_shape   ? "shape"
                            : !entry.has_offsets ? "data_offsets"
                                                 : nullptr;
      if (missing != nullptr) throw Error("tensor '{}': '{}' is missing", name(), missing);
    }
    return go(Place::kTop);
  }

  bool null() override { wrong("null"); }
  bool boolean(bool value) override { wrong(value ? "true" : "false"); }
  bool number_integer(number_integer_t value) override { wrong(fmt::format("{}", value)); }
  bool number_float(number_float_t, const string_t& text) override { wrong(text); }
  bool binary(binary_t&) override { wrong("binary data"); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string what = error.what();
    if (const auto at = what.find("syntax error"); at != std::string::npos) what = what.substr(at);
    throw Error("header: invalid JSON at byte {}: {}", position, what);
  }

  std::vector<Entry> take() { return std::move(entries_); }

 private:
  enum class Place {
    kStart,
    kTop,
    kTensorOrMetadata,
    kTensor,
    kDtype,
    kShape,
    kShapeItem,
    kOffsets,
    kOffsetItem,
    kMetadata,
    kMetadataValue,
  };

  const std::string& name() const { return entries_.back().info.name; }

  bool go(Place place) {
    place_ = place;
    return true;
  }

  bool field(bool& seen, const std::string& key, Place place) {
    if (seen) throw Error("tensor '{}': duplicate key '{}'", name(), key);
    seen = true;
    return go(place);
  }

  // The value `found` does not belong where the parser stands.
  [[noreturn]] void wrong(std::string_view found) const {
    switch (place_) {
      case Place::kStart:
      case Place::kTop:
        throw Error("header: expected a JSON object, found {}", found);
      case Place::kMetadata:
      case Place::kMetadataValue:
        throw Error("__metadata__: '{}': expected a string, found {}", key_, found);
      case Place::kTensorOrMetadata:
        if (in_metadata_) throw Error("__metadata__: expected an object, found {}", found);
        throw Error("tensor '{}': expected an object, found {}", name(), found);
      case Place::kTensor:
        throw Error("tensor '{}': expected a key, found {}", name(), found);
      case Place::kDtype:
        throw Error("tensor '{}': dtype: expected a string, found {}", name(), found);
      case Place::kShape:
        throw Error("tensor '{}': shape: expected a list, found {}", name(), found);
      case Place::kShapeItem:
        throw Error("tensor '{}': shape: expected a non-negative integer, found {}", name(), found);
      case Place::kOffsets:
        throw Error("tensor '{}': data_offsets: expected a list, found {}", name(), found);
      case Place::kOffsetItem:
        throw Error("tensor '{}': data_offsets: expected a non-negative integer, found {}", name(),
                    found);
    }
    QUERN_CHECK(false);
  }

  Place place_ = Place::kStart;
  bool in_metadata_ = false;
  std::string key_;
  std::array<std::uint64_t, 2> offsets_{};
  std::size_t num_offsets_ = 0;
  std::vector<Entry> entries_;
  std::unordered_set<std::string> names_;
  std::unordered_set<std::string> metadata_keys_;
};

// shape x dtype must be the size that the offsets give, inside the data.
void check_size(const TensorInfo& info, std::uint64_t data_bytes) {
  const auto elements =
      with_context(fmt::format("tensor '{}'", info.name), [&] { return num_elements(info.shape); });
  std::uint64_t bytes = 0;
  if (__builtin_mul_overflow(static_cast<std::uint64_t>(elements),
                             std::uint64_t{dtype_bytes(info.dtype)}, &bytes)) {
    throw Error("tensor '{}': shape {} has more than 2^64 bytes", info.name,
                shape_text(info.shape));
  }
  if (info.begin > info.end || info.end > data_bytes) {
    throw Error(
        "tensor '{}': data_offsets [{}, {}] lie outside the data of {} bytes (is the file "
        "truncated?)",
        info.name, info.begin, info.end, data_bytes);
  }
  if (info.bytes() != bytes) {
    throw Error("tensor '{}': {} {} takes {} bytes, but data_offsets [{}, {}] give {}", info.name,
                dtype_name(info.dtype), shape_text(info.shape), bytes, info.begin, info.end,
                info.bytes());
  }
}

// The tensors must tile the data: the format allows neither holes nor overlaps.
void check_tiling(const std::vector<TensorInfo>& tensors, std::uint64_t data_bytes) {
  std::vector<std::size_t> order(tensors.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(tensors[a].begin, tensors[a].end) <
           std::pair(tensors[b].begin, tensors[b].end);
  });
  std::uint64_t expected = 0;
  const TensorInfo* previous = nullptr;
  for (const std::size_t i : order) {
    const TensorInfo& info = tensors[i];
    if (info.begin < expected) {
      throw Error("tensors '{}' and '{}' overlap at data byte {}", previous->name, info.name,
                  info.begin);
    }
    if (info.begin > expected) {
      throw Error("{} bytes before tensor '{}' belong to no tensor (data bytes {} to {})",
                  info.begin - expected, info.name, expected, info.begin);
    }
    expected = info.end;
    previous = &info;
  }
  if (expected != data_bytes) {
    throw Error("{} bytes behind the last tensor belong to no tensor", data_bytes - expected);
  }
}

// Checks the 8-byte length against the file and the limit.
std::uint64_t checked_header_bytes(std::span<const std::byte, kLengthBytes> raw,
                                   std::uint64_t file_bytes) {
  std::uint64_t length = 0;
  std::memcpy(&length, raw.data(), kLengthBytes);
  if (length > kMaxSafetensorsHeaderBytes) {
    throw Error("header of {} bytes, more than the limit of {}", length,
                kMaxSafetensorsHeaderBytes);
  }
  if (length > file_bytes - kLengthBytes) {
    throw Error("header of {} bytes in a file of {} (is the file truncated?)", length, file_bytes);
  }
  return length;
}

void read_exactly(int fd, void* to, std::size_t bytes, std::size_t offset) {
  auto* next = static_cast<char*>(to);
  while (bytes > 0) {
    const ssize_t got = ::pread(fd, next, bytes, static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_errno("cannot read the header");
    if (got == 0) throw Error("file ended inside the header");
    next += got;
    bytes -= static_cast<std::size_t>(got);
    offset += static_cast<std::size_t>(got);
  }
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view json, std::uint64_t file_bytes) {
  QUERN_CHECK(kLengthBytes + json.size() <= file_bytes);
  if (!json.starts_with('{')) throw Error("header: expected '{' as its first byte");
  // nlohmann's lexer takes a NUL for the end of the text and would hide what follows.
  if (const auto at = json.find('\0'); at != std::string_view::npos) {
    throw Error("header: NUL at byte {}", at);
  }
  HeaderSax sax;
  nlohmann::json::sax_parse(json, &sax);

  SafetensorsHeader header;
  header.file_bytes = file_bytes;
  header.data_begin = kLengthBytes + json.size();
  const std::uint64_t data_bytes = file_bytes - header.data_begin;
  for (HeaderSax::Entry& entry : sax.take()) {
    check_size(entry.info, data_bytes);
    header.tensors.push_back(std::move(entry.info));
  }
  check_tiling(header.tensors, data_bytes);
  for (TensorInfo& info : header.tensors) {
    info.begin += header.data_begin;
    info.end += header.data_begin;
  }
  return header;
}

namespace {

struct Prefix {
  std::string text;  // the length and the JSON text
  std::uint64_t file_bytes = 0;
};

Prefix read_prefix(const std::filesystem::path& path) {
  struct Descriptor {
    int fd;
    ~Descriptor() {
      if (fd >= 0) ::close(fd);
    }
  };
  const Descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.fd < 0) throw_errno("cannot open");
  struct stat status {};
  if (::fstat(file.fd, &status) != 0) throw_errno("cannot stat");
  if (!S_ISREG(status.st_mode)) throw Error("not a regular file");
  Prefix prefix;
  prefix.file_bytes = static_cast<std::uint64_t>(status.st_size);
  if (prefix.file_bytes < kLengthBytes) {
    throw Error("{} bytes are too few for a safetensors file", prefix.file_bytes);
  }
  std::array<std::byte, kLengthBytes> raw{};
  read_exactly(file.fd, raw.data(), raw.size(), 0);
  prefix.text.resize(kLengthBytes + checked_header_bytes(raw, prefix.file_bytes));
  read_exactly(file.fd, prefix.text.data(), prefix.text.size(), 0);
  return prefix;
}

}  // namespace

std::string read_safetensors_prefix(const std::filesystem::path& path) {
  return with_context(path.string(), [&] { return read_prefix(path).text; });
}

SafetensorsHeader read_safetensors_header(const std::filesystem::path& path) {
  return with_context(path.string(), [&] {
    const Prefix prefix = read_prefix(path);
    return parse_safetensors_header(std::string_view(prefix.text).substr(kLengthBytes),
                                    prefix.file_bytes);
  });
}

SafetensorsFile::SafetensorsFile(const std::filesystem::path& path) : file_(path) {
  with_context(path.string(), [&] {
    const std::span<const std::byte> data = file_.data();
    if (data.size() < kLengthBytes) {
      throw Error("{} bytes are too few for a safetensors file", data.size());
    }
    const std::uint64_t length = checked_header_bytes(data.first<kLengthBytes>(), data.size());
    header_ = parse_safetensors_header(
        {reinterpret_cast<const char*>(data.data()) + kLengthBytes, length}, data.size());
    by_name_.reserve(header_.tensors.size());
    for (std::size_t i = 0; i < header_.tensors.size(); ++i) {
      const TensorInfo& info = header_.tensors[i];
      if (info.begin % dtype_bytes(info.dtype) != 0) {
        throw Error(
            "tensor '{}': {} data at byte {} is not aligned; write the file again with the "
            "safetensors library",
            info.name, dtype_name(info.dtype), info.begin);
      }
      by_name_.emplace(info.name, i);
    }
  });
}

std::span<const std::byte> SafetensorsFile::header_bytes() const {
  return file_.data().first(header_.data_begin);
}

std::span<const std::byte> SafetensorsFile::data() const {
  return file_.data().subspan(header_.data_begin);
}

const TensorInfo* SafetensorsFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &header_.tensors[found->second];
}

TensorView SafetensorsFile::view(const TensorInfo& info) const {
  return {info.dtype, info.shape, file_.data().data() + info.begin};
}

}  // namespace quern
