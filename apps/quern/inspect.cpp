// quern inspect: what a checkpoint holds, by part of the model and by dtype.
// Must never read tensor data.
// Proved by tests/checkpoint/inspect_diff_test.cc.
#include "quern/checkpoint/inspect.h"

#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "options.h"
#include "quern/base/progress.h"

namespace quern::cli {
namespace {

struct Arguments {
  std::string directory;
  bool json = false;
  bool tensors = false;
};

constexpr const char* kRow = "{:<16} {:>8} {:>20} {:>20} {:>12}\n";

void print_row(std::string_view name, const Tally& tally) {
  fmt::print(kRow, name, tally.tensors, tally.parameters, tally.bytes,
             bytes_text(static_cast<double>(tally.bytes)));
}

void print_tensors(const Checkpoint& checkpoint) {
  std::size_t width = 0;
  for (const auto& tensor : checkpoint.tensors()) width = std::max(width, tensor.name.size());
  for (const auto& tensor : checkpoint.tensors()) {
    fmt::print("{:<{}} {:<7} {:<24} {:>14} {}\n", tensor.name, width, dtype_name(tensor.view.dtype),
               shape_text(tensor.view.shape), tensor.view.bytes(),
               checkpoint.shards()[tensor.shard].path().filename().string());
  }
  fmt::print("\n");
}

void print_table(const Inspection& inspection) {
  fmt::print(kRow, "part", "tensors", "parameters", "bytes", "");
  for (std::size_t i = 0; i < kNumModelParts; ++i) {
    const auto part = static_cast<ModelPart>(i);
    const Tally tally = inspection.part(part);
    if (tally.tensors > 0) print_row(part_name(part), tally);
  }
  fmt::print("\n");
  fmt::print(kRow, "dtype", "tensors", "stored elements", "bytes", "");
  for (const auto& [dtype, tally] : inspection.dtypes()) {
    fmt::print(kRow, dtype_name(dtype), tally.tensors, tally.elements, tally.bytes,
               bytes_text(static_cast<double>(tally.bytes)));
  }
  fmt::print("\n");
  print_row("total", inspection.total());
}

Json tally_json(const Tally& tally) {
  return {{"tensors", tally.tensors},
          {"parameters", tally.parameters},
          {"elements", tally.elements},
          {"bytes", tally.bytes}};
}

Json dtypes_json(const std::map<DType, Tally>& dtypes) {
  Json json = Json::object();
  for (const auto& [dtype, tally] : dtypes)
    json[std::string(dtype_name(dtype))] = tally_json(tally);
  return json;
}

Json tensors_json(const Checkpoint& checkpoint) {
  Json list = Json::array();
  for (const auto& tensor : checkpoint.tensors()) {
    list.push_back({{"name", tensor.name},
                    {"dtype", dtype_name(tensor.view.dtype)},
                    {"shape", tensor.view.shape},
                    {"bytes", tensor.view.bytes()},
                    {"part", part_name(part_of(tensor.name))},
                    {"shard", checkpoint.shards()[tensor.shard].path().filename().string()}});
  }
  return list;
}

void print_json(const Checkpoint& checkpoint, const Inspection& inspection, bool tensors) {
  Json json;
  json["directory"] = checkpoint.directory().string();
  json["content_hash"] = checkpoint.content_hash();
  json["shards"] = checkpoint.shards().size();
  json["parts"] = Json::object();
  for (std::size_t i = 0; i < kNumModelParts; ++i) {
    const auto part = static_cast<ModelPart>(i);
    if (inspection.parts[i].empty()) continue;
    Json entry = tally_json(inspection.part(part));
    entry["dtypes"] = dtypes_json(inspection.parts[i]);
    json["parts"][std::string(part_name(part))] = std::move(entry);
  }
  json["dtypes"] = dtypes_json(inspection.dtypes());
  json["total"] = tally_json(inspection.total());
  if (tensors) json["tensors"] = tensors_json(checkpoint);
  fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
}

void run(const Arguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.directory);
  const Inspection inspection = inspect(checkpoint);
  if (arguments.json) return print_json(checkpoint, inspection, arguments.tensors);
  if (arguments.tensors) print_tensors(checkpoint);
  print_table(inspection);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto arguments = std::make_shared<Arguments>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a checkpoint holds");
  prepare(*command);
  command->add_option("dir", arguments->directory, "Checkpoint directory")->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_flag("--tensors", arguments->tensors, "List every tensor");
  command->callback([arguments, command] {
    refuse_unknown(*command);
    run(*arguments);
  });
}

}  // namespace quern::cli
