// See pipeline.h.
#include "quern/quantize/pipeline.h"

#include <chrono>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/progress.h"
#include "quern/quantize/shard_stream.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxCopyDepth = 16;  // a link that leads back up would never end

bool is_inside(const fs::path& path, const fs::path& directory) {
  const auto [end, ignored] =
      std::mismatch(directory.begin(), directory.end(), path.begin(), path.end());
  return end == directory.end();
}

bool is_shard_name(const fs::path& name) {
  return name.string().ends_with(".safetensors") || name.string().ends_with(".safetensors.part");
}

// "readme" and ".md" in the lower-cased name, as Quark skips them.
bool is_readme(std::string name) {
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name.ends_with(".md") && name.find("readme") != std::string::npos;
}

void copy_with_time(const fs::path& from, const fs::path& to) {
  fs::copy_file(from, to, fs::copy_options::overwrite_existing);
  fs::last_write_time(to, fs::last_write_time(from));
}

void copy_tree(const fs::path& from, const fs::path& to, int depth) {
  if (depth > kMaxCopyDepth) throw Error("'{}': directories nested too deep", from.string());
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    const fs::path target = to / entry.path().filename();
    if (entry.is_directory()) {
      copy_tree(entry.path(), target, depth + 1);
    } else if (entry.is_regular_file()) {
      copy_with_time(entry.path(), target);
    }
  }
}

// Everything of the source's top level but shards, readmes and what is written anew.
void copy_other_files(const fs::path& from, const fs::path& to) {
  for (const auto& entry : fs::directory_iterator(from)) {
    const std::string name = entry.path().filename().string();
    if (entry.is_directory()) {
      copy_tree(entry.path(), to / name, 0);
    } else if (entry.is_regular_file() && !name.ends_with(".safetensors") && !is_readme(name) &&
               name != "config.json" && name != "model.safetensors.index.json") {
      copy_with_time(entry.path(), to / name);
    }
  }
}

// As Quark's json.dump(indent=4): total_size is the sum of the files' sizes, names are in the order
// of processing. Written by hand because a JSON object of 100,000 keys is slow to build.
std::string index_text(const QuantizePlan& plan) {
  std::string text = fmt::format(
      "{{\n    \"metadata\": {{\n        \"total_size\": {}\n    }},\n    \"weight_map\": {{",
      plan.output_bytes);
  const char* separator = "\n";
  for (const PlannedShard& shard : plan.shards) {
    const std::string file = Json(shard.output_name).dump();
    const auto add = [&](const std::string& tensor) {
      text += fmt::format("{}        {}: {}", separator, Json(tensor).dump(), file);
      separator = ",\n";
    };
    for (const PlannedTensor& tensor : shard.tensors) {
      for (const TensorSpec& output : tensor.kernel->outputs()) add(output.name);
    }
  }
  return text + "\n    }\n}";
}

}  // namespace

void prepare_output_directory(const QuantizeOptions& options) {
  const fs::path source = fs::canonical(options.model_dir);
  const fs::path output = fs::weakly_canonical(options.output_dir);
  if (output.empty()) throw Error("the output directory is empty");
  if (is_inside(output, source) || is_inside(source, output)) {
    throw Error("the output directory '{}' must not be, hold or lie in the source '{}'",
                output.string(), source.string());
  }
  if (fs::exists(output) && !fs::is_directory(output)) {
    throw Error("'{}' is not a directory", output.string());
  }
  fs::create_directories(output);
  if (fs::is_empty(output)) return;
  if (!options.overwrite) {
    throw Error("the output directory '{}' is not empty; give --overwrite to replace what is there",
                output.string());
  }
  std::vector<fs::path> old = {output / "config.json", output / "model.safetensors.index.json"};
  for (const auto& entry : fs::directory_iterator(output)) {
    if (entry.is_regular_file() && is_shard_name(entry.path().filename()))
      old.push_back(entry.path());
  }
  for (const fs::path& path : old) fs::remove(path);
}

QuantizeReport run_plan(const QuantizePlan& plan, const QuantizeOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  StreamLimits limits;
  limits.threads = options.threads > 0 ? static_cast<std::size_t>(options.threads)
                                       : std::max(1u, std::thread::hardware_concurrency());
  limits.memory_budget_bytes = options.memory_budget_bytes;
  QuantizeReport report;
  Progress progress("quantize", plan.source_bytes, ProgressUnit::kBytes);
  for (const PlannedShard& shard : plan.shards) {
    progress.set_note(shard.output_name);
    with_context(shard.source.string(), [&] {
      stream_shard(shard, options.output_dir / shard.output_name, limits, progress);
    });
    ++report.shards;
    report.source_bytes += fs::file_size(shard.source);
    report.copied_tensors += shard.tensors.size();
  }
  progress.finish();
  report.quantized_tensors = plan.quantized_tensors;
  report.copied_tensors -= plan.quantized_tensors;
  report.output_bytes = plan.output_bytes;
  copy_other_files(options.model_dir, options.output_dir);
  write_file(options.output_dir / "model.safetensors.index.json", index_text(plan));
  write_file(options.output_dir / "config.json", plan.config_text);
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return report;
}

}  // namespace quern
