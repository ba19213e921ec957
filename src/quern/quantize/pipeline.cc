// See pipeline.h.
#include "quern/quantize/pipeline.h"

#include <xxhash.h>

#include <chrono>
#include <future>
#include <set>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/progress.h"
#include "quern/quantize/ranks.h"
#include "quern/quantize/shard_stream.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

std::vector<SourceIdentity> sources_of(const PlannedShard& shard, const fs::path& model_dir) {
  std::set<fs::path> files = {shard.source};
  for (const PlannedTensor& tensor : shard.tensors) {
    for (const KernelInput& input : tensor.kernel->inputs()) files.insert(input.file);
  }
  std::vector<SourceIdentity> sources;
  for (const fs::path& file : files) sources.push_back(identify_source(model_dir, file));
  return sources;
}

std::uint64_t shard_bytes(const std::vector<SourceIdentity>& sources) {
  std::uint64_t bytes = 0;
  for (const SourceIdentity& source : sources) bytes += source.bytes;
  return bytes;
}

class Run {
 public:
  Run(const QuantizePlan& plan, const QuantizeOptions& options, std::function<void()> poll)
      : plan_(plan),
        options_(options),
        poll_(std::move(poll)),
        manifest_(options.output_dir, options.rank) {
    if (options.world_size < 1 || options.rank < 0 || options.rank >= options.world_size) {
      throw Error("rank {} of {} makes no sense", options.rank, options.world_size);
    }
    const Json job = job_of(plan, options);
    check_same_job(manifest_.claim_job(job), job, options.output_dir);
    std::vector<std::uint64_t> sizes;
    for (const PlannedShard& shard : plan.shards) {
      sources_.push_back(sources_of(shard, options.model_dir));
      sizes.push_back(shard_bytes(sources_.back()));
    }
    ranks_ = assign_shards(sizes, options.world_size);
  }

  QuantizeReport run() {
    const auto start = std::chrono::steady_clock::now();
    const std::vector<std::size_t> todo = unfinished_shards();
    if (!todo.empty()) {
      remove_index_and_config(options_.output_dir);
      check_room(todo);
      write_shards(todo);
    }
    for (std::size_t i = 0; i < plan_.shards.size(); ++i) {
      report_.missing_shards += ranks_[i] != options_.rank && !is_done(i);
    }
    if (report_.missing_shards == 0) finish();
    report_.quantized_tensors = plan_.quantized_tensors;
    for (const PlannedShard& shard : plan_.shards) report_.copied_tensors += shard.tensors.size();
    report_.copied_tensors -= plan_.quantized_tensors;
    report_.output_bytes = plan_.output_bytes;
    report_.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return std::move(report_);
  }

 private:
  // Its record is written after the shard has its name and is durable.
  bool is_done(std::size_t index) const {
    const PlannedShard& shard = plan_.shards[index];
    const fs::path output = options_.output_dir / shard.output_name;
    const auto record = manifest_.record(shard.output_name);
    std::error_code error;
    if (!record || fs::file_size(output, error) != shard.layout.file_bytes || error) return false;
    const std::string& prefix = shard.layout.prefix;
    if (record->sources != sources_[index] ||
        record->header_xxh3 != XXH3_64bits(prefix.data(), prefix.size())) {
      throw Error("'{}' has changed since '{}' was made of it; give --overwrite to start anew",
                  shard.source.string(), output.string());
    }
    return true;
  }

  // Those of this rank.
  std::vector<std::size_t> unfinished_shards() {
    std::vector<std::size_t> todo;
    for (std::size_t i = 0; i < plan_.shards.size(); ++i) {
      const bool done = is_done(i);
      report_.skipped_shards += done;
      if (!done && ranks_[i] == options_.rank) todo.push_back(i);
    }
    return todo;
  }

  // An old part file is written anew in its place.
  void check_room(const std::vector<std::size_t>& todo) const {
    std::uint64_t bytes = 0;
    std::uint64_t reused = 0;
    for (const std::size_t i : todo) {
      bytes += plan_.shards[i].layout.file_bytes;
      for (const char* suffix : {"", ".part"}) {
        std::error_code absent;
        const auto size =
            fs::file_size(options_.output_dir / (plan_.shards[i].output_name + suffix), absent);
        if (!absent) reused += size;
      }
    }
    check_free_space(options_.output_dir, bytes - std::min(bytes, reused));
  }

  void write_shards(const std::vector<std::size_t>& todo) {
    StreamLimits limits;
    limits.threads = options_.threads > 0 ? static_cast<std::size_t>(options_.threads)
                                          : std::max(1u, std::thread::hardware_concurrency());
    limits.memory_budget_bytes = options_.memory_budget_bytes;
    for (const std::size_t i : todo) report_.source_bytes += shard_bytes(sources_[i]);
    Progress progress("quantize", report_.source_bytes, ProgressUnit::kBytes);
    const StreamHooks hooks{&progress, poll_};
    // One shard is synced to the disk while the next is quantized.
    std::future<void> commit;
    for (const std::size_t i : todo) {
      const PlannedShard& shard = plan_.shards[i];
      progress.set_note(shard.output_name);
      auto file =
          std::make_unique<ShardFile>(options_.output_dir / shard.output_name, shard.layout);
      ShardRecord record = with_context(shard.source.string(), [&] {
        return stream_shard(shard, *file, limits, options_.report, hooks);
      });
      record.sources = sources_[i];
      if (commit.valid()) commit.get();
      commit = std::async(std::launch::async,
                          [this, i, file = std::move(file), record = std::move(record)] {
                            check_sources(i);
                            file->commit();
                            manifest_.write_record(plan_.shards[i].output_name, record);
                          });
      ++report_.shards;
    }
    if (commit.valid()) commit.get();
    progress.finish();
  }

  void check_sources(std::size_t index) const {
    for (const SourceIdentity& before : sources_[index]) {
      const fs::path file = options_.model_dir / before.file;
      if (identify_source(options_.model_dir, file) != before) {
        throw Error("'{}' was changed while it was read; start again", file.string());
      }
    }
  }

  // By the rank that finds all shards done: the last, or several at once with the same files.
  void finish() {
    std::string report;
    if (options_.report) {
      for (const PlannedShard& shard : plan_.shards) {
        auto record = manifest_.record(shard.output_name);
        if (!record) throw Error("the record of '{}' has gone", shard.output_name);
        for (const TensorRecord& tensor : record->tensors) report_.quality.add(tensor);
      }
      report_.quality.sort();
      report = quality_json(report_.quality).dump(1);
    }
    if (report_.shards == 0 && is_complete(options_.output_dir)) return;
    finish_output_directory(plan_, options_, manifest_, report);
  }

  const QuantizePlan& plan_;
  const QuantizeOptions& options_;
  std::function<void()> poll_;
  Manifest manifest_;
  std::vector<std::vector<SourceIdentity>> sources_;  // of each shard, as found at the start
  std::vector<int> ranks_;                            // of each shard
  QuantizeReport report_;
};

}  // namespace

QuantizeReport run_plan(const QuantizePlan& plan, const QuantizeOptions& options,
                        const std::function<void()>& poll) {
  try {
    return Run(plan, options, poll).run();
  } catch (const fs::filesystem_error& error) {
    throw Error("'{}': {}", error.path1().string(), error.code().message());
  }
}

}  // namespace quern
