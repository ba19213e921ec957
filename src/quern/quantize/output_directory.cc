// See output_directory.h.
#include "quern/quantize/output_directory.h"

#include <xxhash.h>

#include <algorithm>
#include <cctype>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/quantize/manifest.h"
#include "quern/quantize/shard_file.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

// The layout of the record: raised when a new program cannot go on with what an old one left.
constexpr int kRecordFormat = 1;
constexpr const char* kConfigName = "config.json";
constexpr const char* kIndexName = "model.safetensors.index.json";
constexpr const char* kReportName = "quantize_report.json";
constexpr std::size_t kMaxSourceConfigBytes = 16u << 20;
constexpr std::size_t kMaxCopiedDirectories = 10'000;

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

// What is copied beside the shards, by its place below the model directory.
struct OtherFiles {
  std::vector<fs::path> directories;  // a directory before those in it
  std::vector<fs::path> files;
  std::vector<std::string> skipped;  // for the log
};

// Walks as Quark's shutil.copytree does, through links: those of a Hugging Face cache are files
// that lead out of the directory. Links to directories are followed only where they can neither
// lead out of it nor in a circle.
class OtherFilesFinder {
 public:
  explicit OtherFilesFinder(const fs::path& root) : root_(fs::canonical(root)) {}

  OtherFiles find() {
    walk("");
    return std::move(found_);
  }

 private:
  void walk(const fs::path& below) {
    // Links to directories with links can name the same directories in a great many ways.
    if (++walked_ > kMaxCopiedDirectories) {
      throw Error("'{}': more than {} directories to copy; do links lead to the same ones?",
                  root_.string(), kMaxCopiedDirectories);
    }
    for (const auto& entry : fs::directory_iterator(root_ / below)) {
      const fs::path place = below / entry.path().filename();
      std::error_code error;
      const fs::file_status status = entry.status(error);  // of what a link leads to
      if (fs::is_directory(status)) {
        add_directory(entry, place);
      } else if (fs::is_regular_file(status)) {
        if (!below.empty() || is_copied(place.string())) found_.files.push_back(place);
      } else {
        skip(place, entry.is_symlink() ? "a link that leads to no file" : "not a file");
      }
    }
  }

  void add_directory(const fs::directory_entry& entry, const fs::path& place) {
    if (place == Manifest::kDirectory) return;
    if (entry.is_symlink()) {
      const fs::path target = fs::canonical(entry.path());
      if (!is_inside(target, root_)) {
        return skip(place,
                    fmt::format("a link to '{}', outside of the model directory", target.string()));
      }
      // What it stands in, by true names: of the links on the way here too.
      if (is_inside(fs::canonical(entry.path().parent_path()), target) ||
          std::ranges::find(links_, target) != links_.end()) {
        return skip(place, "a link to a directory that it lies in");
      }
      links_.push_back(target);
    }
    found_.directories.push_back(place);
    walk(place);
    if (entry.is_symlink()) links_.pop_back();
  }

  // Of the top level: all but shards, readmes and what is written anew.
  static bool is_copied(const std::string& name) {
    return !name.ends_with(".safetensors") && !is_readme(name) && name != kConfigName &&
           name != kIndexName && name != kReportName;
  }

  void skip(const fs::path& place, std::string_view why) {
    found_.skipped.push_back(fmt::format("not copied: '{}' ({})", (root_ / place).string(), why));
  }

  fs::path root_;
  std::size_t walked_ = 0;
  std::vector<fs::path> links_;  // where those lead that the walk stands in
  OtherFiles found_;
};

void copy_other_files(const fs::path& from, const fs::path& to, const Manifest& manifest) {
  const OtherFiles other = OtherFilesFinder(from).find();
  for (const fs::path& directory : other.directories) fs::create_directories(to / directory);
  for (const fs::path& file : other.files) manifest.publish_copy(from / file, to / file);
  for (const fs::path& directory : other.directories) sync_directory(to / directory);
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

// Files of a checkpoint that an earlier run of this program left.
void remove_old_output(const fs::path& output) {
  std::vector<fs::path> old = {output / kIndexName, output / kReportName};
  for (const auto& entry : fs::directory_iterator(output)) {
    if (entry.is_regular_file() && is_shard_name(entry.path().filename()))
      old.push_back(entry.path());
  }
  fs::remove(output / kConfigName);
  sync_directory(output);  // not loadable from here on
  for (const fs::path& path : old) fs::remove(path);
  fs::remove_all(output / Manifest::kDirectory);
}

// Another rank may be starting in the same directory: its record appears before anything else.
bool holds_only_a_run(const fs::path& output) {
  const Manifest manifest(output, 0);
  if (manifest.job()) return true;
  for (const auto& entry : fs::directory_iterator(output)) {
    if (entry.path().filename() != Manifest::kDirectory) return manifest.job().has_value();
  }
  return true;
}

// Of every shard's header: converters and formats change names and shapes.
std::string layouts_hash(const QuantizePlan& plan) {
  std::uint64_t hash = 0;
  for (const PlannedShard& shard : plan.shards) {
    const std::string& prefix = shard.layout.prefix;
    hash = XXH3_64bits_withSeed(prefix.data(), prefix.size(), hash);
  }
  return hex64(hash);
}

// The file may be another one under the same name.
Json importance_hash(const QuantizePlan& plan) {
  if (plan.importance == nullptr) return nullptr;
  const auto data = plan.importance->data();
  return hex64(XXH3_64bits(data.data(), data.size()));
}

Json converters_json(const std::vector<WeightConverter>& converters) {
  Json list = Json::array();
  for (const WeightConverter& c : converters) {
    list.push_back({c.source, c.targets, static_cast<int>(c.operation), c.axis});
  }
  return list;
}

}  // namespace

void prepare_output_directory(const QuantizeOptions& options) {
  for (const std::string& note : OtherFilesFinder(options.model_dir).find().skipped) {
    spdlog::warn("{}", note);
  }
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
  std::error_code error;
  fs::create_directories(output, error);
  if (error) throw Error("cannot create '{}': {}", output.string(), error.message());
  if (options.overwrite && options.world_size > 1) {
    throw Error(
        "--overwrite needs a single process: one rank would remove the work of another; "
        "empty '{}' first",
        output.string());
  }
  if (options.overwrite) return remove_old_output(output);
  if (holds_only_a_run(output)) return;
  throw Error(
      "the output directory '{}' is not empty and holds no run to go on with; give --overwrite to "
      "replace what is there",
      output.string());
}

// Options that change bytes stand here by name, so that a mismatch can be named.
Json job_of(const QuantizePlan& plan, const QuantizeOptions& options) {
  Json job;
  job["format"] = kRecordFormat;
  job["quant_scheme"] = options.quant_scheme;
  job["layer_config"] = options.layer_config;
  job["exclude_layers"] =
      options.exclude_layers ? Json(*options.exclude_layers) : Json("of the template");
  job["template"] = options.template_name;
  job["scale_rule"] = scale_rule_name(options.scale_rule);
  job["importance_file"] = options.importance_file.string();
  job["importance_xxh3"] = importance_hash(plan);
  job["weight_converters"] = converters_json(plan.converters);
  job["keep_excluded_layers_as_original_model_state"] =
      options.keep_excluded_layers_as_original_model_state;
  job["presharded_weights"] = options.presharded_weights;
  job["report"] = options.report;
  job["shards"] = plan.shards.size();
  job["outputs"] = layouts_hash(plan);
  job["config.json"] = hex64(XXH3_64bits(plan.config_text.data(), plan.config_text.size()));
  // How the source is read stands in its own file, of which the output's keeps only a part.
  const std::string source = read_file(options.model_dir / kConfigName, kMaxSourceConfigBytes);
  job["config.json of the source"] = hex64(XXH3_64bits(source.data(), source.size()));
  return job;
}

void check_free_space(const fs::path& output_dir, std::uint64_t bytes) {
  const std::uint64_t available = fs::space(output_dir).available;
  if (available >= bytes) return;
  throw Error("'{}' needs {} more, but its file system has only {} free", output_dir.string(),
              bytes_text(static_cast<double>(bytes)), bytes_text(static_cast<double>(available)));
}

bool is_complete(const fs::path& output_dir) { return fs::exists(output_dir / kConfigName); }

void remove_index_and_config(const fs::path& output_dir) {
  const bool removed = fs::remove(output_dir / kConfigName);
  fs::remove(output_dir / kIndexName);
  if (removed) sync_directory(output_dir);  // before a shard takes the place of another
}

void finish_output_directory(const QuantizePlan& plan, const QuantizeOptions& options,
                             const Manifest& manifest, const std::string& report) {
  copy_other_files(options.model_dir, options.output_dir, manifest);
  if (!report.empty()) manifest.publish(options.output_dir / kReportName, report);
  manifest.publish(options.output_dir / kIndexName, index_text(plan));
  manifest.remove_temporary_files(options.world_size);
  // All names, of the records too, are durable before the one that says that all is there.
  manifest.sync();
  manifest.publish(options.output_dir / kConfigName, plan.config_text);
  sync_directory(options.output_dir);
}

}  // namespace quern
