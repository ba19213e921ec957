// See manifest.h.
#include "quern/quantize/manifest.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/quantize/shard_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t kMaxRecordBytes = 1u << 30;
constexpr std::string_view kTemporaryPrefix = "tmp.";

std::uint64_t parse_hex64(const Json& value) {
  const auto& text = value.get_ref<const std::string&>();
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, 16);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw Error("expected a hexadecimal number, found \"{}\"", text);
  }
  return number;
}

// Zero bins are left out: [[bin, count], ...].
WeightStatistics parse_statistics(const Json& json) {
  WeightStatistics statistics;
  statistics.elements = json.at("elements").get<std::uint64_t>();
  statistics.clipped = json.at("clipped").get<std::uint64_t>();
  statistics.flushed = json.at("flushed").get<std::uint64_t>();
  statistics.signal = json.at("signal").get<double>();
  statistics.noise = json.at("noise").get<double>();
  statistics.max_peak_error = json.at("max_peak_error").get<double>();
  for (const Json& bin : json.at("scales")) {
    statistics.scales.at(bin.at(0).get<std::size_t>()) = bin.at(1).get<std::uint64_t>();
  }
  return statistics;
}

Json record_json(const ShardRecord& record) {
  Json json;
  json["sources"] = Json::array();
  for (const SourceIdentity& source : record.sources) {
    json["sources"].push_back({{"file", source.file},
                               {"bytes", source.bytes},
                               {"mtime_ns", source.mtime_ns},
                               {"header_xxh3", hex64(source.header_xxh3)}});
  }
  json["output_bytes"] = record.output_bytes;
  json["header_xxh3"] = hex64(record.header_xxh3);
  // Built as text would be: an ordered_json object of many keys is slow to fill by key.
  Json::object_t hashes;
  for (const auto& [name, hash] : record.xxh3) hashes.emplace_back(name, hex64(hash));
  json["xxh3"] = std::move(hashes);
  json["tensors"] = Json::array();
  for (const TensorRecord& tensor : record.tensors) {
    json["tensors"].push_back(
        {{"name", tensor.name},
         {"scheme", tensor.scheme},
         {"source_bytes", tensor.source_bytes},
         {"output_bytes", tensor.output_bytes},
         {"statistics", tensor.statistics ? statistics_json(*tensor.statistics) : Json(nullptr)}});
  }
  return json;
}

ShardRecord parse_record(const Json& json) {
  ShardRecord record;
  for (const Json& source : json.at("sources")) {
    record.sources.push_back(
        {source.at("file").get<std::string>(), source.at("bytes").get<std::uint64_t>(),
         source.at("mtime_ns").get<std::int64_t>(), parse_hex64(source.at("header_xxh3"))});
  }
  record.output_bytes = json.at("output_bytes").get<std::uint64_t>();
  record.header_xxh3 = parse_hex64(json.at("header_xxh3"));
  for (const auto& [name, hash] : json.at("xxh3").items()) {
    record.xxh3.emplace(name, parse_hex64(hash));
  }
  for (const Json& tensor : json.at("tensors")) {
    TensorRecord& added = record.tensors.emplace_back();
    added.name = tensor.at("name").get<std::string>();
    added.scheme = tensor.at("scheme").get<std::string>();
    added.source_bytes = tensor.at("source_bytes").get<std::uint64_t>();
    added.output_bytes = tensor.at("output_bytes").get<std::uint64_t>();
    if (!tensor.at("statistics").is_null()) {
      added.statistics = parse_statistics(tensor.at("statistics"));
    }
  }
  return record;
}

void sync_file(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) throw_errno(fmt::format("cannot open '{}'", path.string()));
  const int status = ::fsync(fd);
  const int code = errno;
  ::close(fd);
  if (status == 0) return;
  errno = code;
  throw_errno(fmt::format("cannot sync '{}'", path.string()));
}

// The file of a faster rank stays. rename() would replace it: it is for file systems that can do
// neither of the others.
void rename_unless_taken(const fs::path& from, const fs::path& to) {
  if (::link(from.c_str(), to.c_str()) == 0 || errno == EEXIST) {
    fs::remove(from);
  } else if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), RENAME_NOREPLACE) != 0) {
    errno == EEXIST ? static_cast<void>(fs::remove(from)) : fs::rename(from, to);
  }
}

Json read_json(const fs::path& path) {
  return parse_json(read_file(path, kMaxRecordBytes), path.string(),
                    {.reject_duplicate_keys = false});
}

}  // namespace

std::string hex64(std::uint64_t value) { return fmt::format("{:016x}", value); }

Json statistics_json(const WeightStatistics& statistics) {
  Json scales = Json::array();
  for (std::size_t i = 0; i < statistics.scales.size(); ++i) {
    if (statistics.scales[i] > 0) scales.push_back({i, statistics.scales[i]});
  }
  return {{"elements", statistics.elements}, {"clipped", statistics.clipped},
          {"flushed", statistics.flushed},   {"signal", statistics.signal},
          {"noise", statistics.noise},       {"max_peak_error", statistics.max_peak_error},
          {"scales", std::move(scales)}};
}

SourceIdentity identify_source(const fs::path& model_dir, const fs::path& file) {
  struct stat status {};
  if (::stat(file.c_str(), &status) != 0)
    throw_errno(fmt::format("cannot stat '{}'", file.string()));
  SourceIdentity identity;
  identity.file = file.lexically_relative(model_dir).string();
  identity.bytes = static_cast<std::uint64_t>(status.st_size);
  identity.mtime_ns = std::int64_t{status.st_mtim.tv_sec} * 1'000'000'000 + status.st_mtim.tv_nsec;
  const std::string prefix = read_safetensors_prefix(file);
  identity.header_xxh3 = XXH3_64bits(prefix.data(), prefix.size());
  return identity;
}

Manifest::Manifest(const fs::path& output_dir, int rank)
    : directory_(output_dir / kDirectory), rank_(rank) {}

std::optional<Json> Manifest::job() const {
  if (!fs::exists(directory_ / "job.json")) return std::nullopt;
  return read_json(directory_ / "job.json");
}

Json Manifest::claim_job(const Json& job) const {
  if (const auto before = this->job()) return *before;
  fs::create_directories(directory_ / "shards");
  const fs::path target = directory_ / "job.json";
  const fs::path temporary_path = temporary(target);
  write_file(temporary_path, job.dump(1));
  rename_unless_taken(temporary_path, target);
  sync();
  const auto standing = this->job();
  if (!standing) throw Error("'{}' was removed by another process", target.string());
  return *standing;
}

void Manifest::sync() const {
  sync_directory(directory_ / "shards");
  sync_directory(directory_);
  sync_directory(directory_.parent_path());
}

fs::path Manifest::record_path(const std::string& shard) const {
  return directory_ / "shards" / (shard + ".json");
}

bool Manifest::has_record(const std::string& shard) const { return fs::exists(record_path(shard)); }

std::optional<ShardRecord> Manifest::record(const std::string& shard) const {
  const fs::path path = record_path(shard);
  if (!fs::exists(path)) return std::nullopt;
  try {
    return parse_record(read_json(path));
  } catch (const Json::exception& error) {
    throw Error("{}: not a record of this program ({})", path.string(), error.what());
  } catch (const std::out_of_range&) {
    throw Error("{}: scale out of range", path.string());
  }
}

void Manifest::write_record(const std::string& shard, const ShardRecord& record) const {
  publish(record_path(shard), record_json(record).dump());
}

std::vector<std::string> Manifest::recorded_shards() const {
  std::vector<std::string> names;
  if (!fs::exists(directory_ / "shards")) return names;
  for (const auto& entry : fs::directory_iterator(directory_ / "shards")) {
    if (entry.path().extension() == ".json") names.push_back(entry.path().stem().string());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// One name a process: several may publish the same file at the same time.
fs::path Manifest::temporary(const fs::path& target) const {
  return directory_ /
         fmt::format("{}{}.{}.{}", kTemporaryPrefix, rank_, ::getpid(), target.filename().string());
}

void Manifest::publish(const fs::path& target, std::string_view text) const {
  const fs::path temporary_path = temporary(target);
  write_file(temporary_path, text);
  fs::rename(temporary_path, target);
}

void Manifest::publish_copy(const fs::path& from, const fs::path& target) const {
  const fs::path temporary_path = temporary(target);
  fs::remove(temporary_path);  // an old one may be read-only, as its source was
  fs::copy_file(from, temporary_path);
  fs::last_write_time(temporary_path, fs::last_write_time(from));
  sync_file(temporary_path);
  fs::rename(temporary_path, target);
}

void Manifest::remove_temporary_files(int world_size) const {
  for (const auto& entry : fs::directory_iterator(directory_)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(kTemporaryPrefix)) continue;
    int owner = world_size;  // of no rank of this run, unless the name says so
    std::from_chars(name.data() + kTemporaryPrefix.size(), name.data() + name.size(), owner);
    if (owner != rank_ && owner >= 0 && owner < world_size) continue;
    std::error_code gone_already;
    fs::remove(entry.path(), gone_already);
  }
}

void check_same_job(const Json& before, const Json& now, const fs::path& output_dir) {
  const auto refuse = [&](const std::string& key, const Json& old_value, const Json& value) {
    throw Error(
        "'{}' holds a run with {} {}, this one has {}; give the same options to go on with it, or "
        "--overwrite to start anew",
        output_dir.string(), key, old_value.dump(), value.dump());
  };
  for (const auto& [key, value] : now.items()) {
    const Json old_value = before.value(key, Json(nullptr));
    if (old_value != value) refuse(key, old_value, value);
  }
  for (const auto& [key, value] : before.items()) {
    if (!now.contains(key)) refuse(key, value, nullptr);
  }
}

}  // namespace quern
