// See verify.h.
#include "quern/quantize/verify.h"

#include <fcntl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <set>
#include <unordered_map>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/progress.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/quantize/manifest.h"
#include "quern/quantize/range_reader.h"
#include "quern/quantize/tensor_hash.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kPieceBytes = 4u << 20;
constexpr std::size_t kMaxListed = 10;
constexpr std::size_t kMaxFileBytes = 1u << 30;

void drop_from_page_cache(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;  // the reader will say why
  (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  ::close(fd);
}

class Verifier {
 public:
  Verifier(const fs::path& output_dir, const std::function<void()>& poll)
      : output_dir_(output_dir), poll_(poll), manifest_(output_dir, 0) {}

  VerifyReport run() {
    const auto job = manifest_.job();
    if (!job) throw Error("'{}' holds no record of a quantization", output_dir_.string());
    const std::vector<std::string> shards = manifest_.recorded_shards();
    const std::size_t expected = job->value("shards", std::size_t{0});
    if (shards.size() != expected) {
      problem(fmt::format("{} of {} shards are done", shards.size(), expected));
    }
    std::uint64_t total = 0;
    for (const std::string& shard : shards) {
      std::error_code absent;
      const auto size = fs::file_size(output_dir_ / shard, absent);
      if (!absent) total += size;
    }
    {
      Progress progress("verify", total, ProgressUnit::kBytes);
      for (const std::string& shard : shards) {
        progress.set_note(shard);
        try {
          check_shard(shard, progress);
        } catch (const Error& error) {
          problem(error.what());
        }
      }
    }
    check_config(*job);
    check_index();
    if (problems_ > 0) {
      throw Error(
          "'{}' is not what was written: {}{}", output_dir_.string(), text_,
          problems_ > kMaxListed ? fmt::format(" and {} more", problems_ - kMaxListed) : "");
    }
    return report_;
  }

 private:
  void problem(const std::string& what) {
    if (problems_++ < kMaxListed) text_ += (text_.empty() ? "" : "; ") + what;
  }

  void check_shard(const std::string& shard, Progress& progress) {
    const fs::path path = output_dir_ / shard;
    const auto record = manifest_.record(shard);
    if (!record) throw Error("'{}' has no record", shard);
    drop_from_page_cache(path);
    const std::string prefix = read_safetensors_prefix(path);
    if (XXH3_64bits(prefix.data(), prefix.size()) != record->header_xxh3) {
      throw Error("'{}': the header has changed", shard);
    }
    const SafetensorsHeader header = read_safetensors_header(path);
    const RangeReader reader(path);
    std::vector<std::byte> piece;
    for (const TensorInfo& tensor : header.tensors) {
      const auto hash = record->xxh3.find(tensor.name);
      if (hash == record->xxh3.end()) throw Error("'{}': tensor '{}' is new", shard, tensor.name);
      TensorHash found;
      for (std::uint64_t offset = 0; offset < tensor.bytes(); offset += kPieceBytes) {
        piece.resize(static_cast<std::size_t>(std::min(kPieceBytes, tensor.bytes() - offset)));
        reader.read(tensor.begin + offset, piece);
        found.add(offset, piece);
        progress.add(piece.size());
        if (poll_) poll_();
      }
      if (found.finish(tensor.bytes(), nullptr) != hash->second) {
        problem(fmt::format("'{}': tensor '{}' has other bytes", shard, tensor.name));
      }
      where_.emplace(tensor.name, shard);
      ++report_.tensors;
    }
    ++report_.shards;
    report_.bytes += header.file_bytes;
  }

  void check_config(const Json& job) {
    const fs::path path = output_dir_ / "config.json";
    if (!fs::exists(path)) return problem("config.json is missing: the run is not finished");
    const std::string text = read_file(path, kMaxFileBytes);
    if (hex64(XXH3_64bits(text.data(), text.size())) != job.value("config.json", "")) {
      problem("config.json has changed");
    }
  }

  void check_index() {
    const fs::path path = output_dir_ / "model.safetensors.index.json";
    if (!fs::exists(path)) return problem("model.safetensors.index.json is missing");
    const auto index = parse_safetensors_index(read_file(path, kMaxFileBytes), path.string());
    std::size_t matching = 0;
    for (const auto& [tensor, file] : index.weight_map) {
      const auto found = where_.find(tensor);
      matching += found != where_.end() && found->second == file;
    }
    if (matching != where_.size() || matching != index.weight_map.size()) {
      problem(fmt::format("the index names {} tensors, {} of the {} there are",
                          index.weight_map.size(), matching, where_.size()));
    }
  }

  fs::path output_dir_;
  const std::function<void()>& poll_;
  Manifest manifest_;
  VerifyReport report_;
  std::unordered_map<std::string, std::string> where_;
  std::string text_;
  std::size_t problems_ = 0;
};

}  // namespace

VerifyReport verify_output(const fs::path& output_dir, const std::function<void()>& poll) {
  return Verifier(output_dir, poll).run();
}

}  // namespace quern
