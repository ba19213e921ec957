// The record of a quantization run in its output directory: what was asked, which shards are done,
// from which source and with which bytes. Must never call a shard done before it is durable under
// its name. Proved by tests/quantize/resume_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/numerics/weight_statistics.h"

namespace quern {

// A source file as it was: enough to notice that it is another one now.
struct SourceIdentity {
  std::string file;  // relative to the model directory
  std::uint64_t bytes = 0;
  std::int64_t mtime_ns = 0;
  std::uint64_t header_xxh3 = 0;  // of the length and the JSON text in front of the data

  bool operator==(const SourceIdentity&) const = default;
};
SourceIdentity identify_source(const std::filesystem::path& model_dir,
                               const std::filesystem::path& file);

// What is kept of one tensor that was quantized.
struct TensorRecord {
  std::string name;
  std::string scheme;
  std::uint64_t source_bytes = 0;
  std::uint64_t output_bytes = 0;
  std::optional<WeightStatistics> statistics;
};

struct ShardRecord {
  std::vector<SourceIdentity> sources;
  std::uint64_t output_bytes = 0;
  std::uint64_t header_xxh3 = 0;              // of the output
  std::map<std::string, std::uint64_t> xxh3;  // of each output tensor
  std::vector<TensorRecord> tensors;
};

// The directory .quern_quantize in an output directory. Files appear in it whole or not at all.
// Several processes may use one at the same time.
class Manifest {
 public:
  Manifest(const std::filesystem::path& output_dir, int rank);

  static constexpr const char* kDirectory = ".quern_quantize";
  // Empty without a run.
  std::optional<Json> job() const;
  // Makes `job` the one of this directory unless there is one, and returns the one that stands: of
  // ranks that start at the same moment the first wins. Every member of it must be the same to go
  // on.
  Json claim_job(const Json& job) const;

  bool has_record(const std::string& shard) const;
  // nullopt when the shard is not done.
  std::optional<ShardRecord> record(const std::string& shard) const;
  void write_record(const std::string& shard, const ShardRecord& record) const;
  // Names of all shards with a record, sorted.
  std::vector<std::string> recorded_shards() const;

  // Writes and copies files of the output directory so that they appear whole, their bytes durable.
  // Their names are so after sync_directory().
  void publish(const std::filesystem::path& target, std::string_view text) const;
  void publish_copy(const std::filesystem::path& from, const std::filesystem::path& target) const;
  // Makes the names of all records durable.
  void sync() const;
  // Removes what unfinished publish() calls left: of this rank and of ranks that this run does not
  // have. Those of the others may be in the making: several ranks can finish at the same time.
  void remove_temporary_files(int world_size) const;

 private:
  std::filesystem::path record_path(const std::string& shard) const;
  std::filesystem::path temporary(const std::filesystem::path& target) const;

  std::filesystem::path directory_;
  int rank_;
};

// Throws an Error that names the first member in which two jobs differ.
void check_same_job(const Json& before, const Json& now, const std::filesystem::path& output_dir);

std::string hex64(std::uint64_t value);

Json statistics_json(const WeightStatistics& statistics);

}  // namespace quern
