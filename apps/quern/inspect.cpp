// quern inspect: what a checkpoint holds, by part of the model and by dtype.
// Must never read tensor data.
// Proved by tests/checkpoint/inspect_diff_test.cc.
#include "quern/checkpoint/inspect.h"

#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "options.h"
#include "quern/base/progress.h"
#include "quern/checkpoint/model_config.h"
#include "quern/model/sharding_cost.h"
#include "quern/model/vision_tower.h"

namespace quern::cli {
namespace {

struct InspectArguments {
  std::string directory;
  bool json = false;
  bool tensors = false;
  int ranks = 0;
  bool expert_parallel = false;
  std::string encoder_mode = "weights";
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

constexpr const char* kRanksRow = "{:<16} {:>20} {:>20} {:>20}\n";

// What each of the ranks that share the model holds and sends.
struct RanksReport {
  std::array<model::PartBytes, kNumModelParts> parts;
  model::PartBytes total;
  std::int64_t kv_bytes_per_token = 0;
  model::TokenTraffic traffic;
};

RanksReport report_ranks(const Checkpoint& checkpoint, const InspectArguments& arguments) {
  const ModelConfig config = parse_model_config(checkpoint.config());
  const model::Sharding sharding{0, arguments.ranks, arguments.expert_parallel,
                                 arguments.encoder_mode == "data"};
  model::check_sharding(config, sharding, model::VisionTower::present(checkpoint, config));
  RanksReport report;
  report.parts = model::part_bytes(checkpoint, config, sharding);
  for (const model::PartBytes& part : report.parts) report.total += part;
  report.kv_bytes_per_token = model::kv_bytes_per_token(config.text_config, sharding);
  report.traffic = model::token_traffic(config, sharding);
  return report;
}

void print_ranks(const RanksReport& report, const InspectArguments& arguments) {
  fmt::print("{} ranks{}\n\n", arguments.ranks,
             arguments.expert_parallel ? ", expert parallel" : "");
  fmt::print(kRanksRow, "part", "bytes", "bytes of a rank", "replicated bytes");
  const auto row = [&](std::string_view name, const model::PartBytes& part) {
    fmt::print(kRanksRow, name, part.whole, part.rank, part.all_ranks - part.whole);
  };
  for (std::size_t i = 0; i < kNumModelParts; ++i) {
    if (report.parts[i].whole > 0) row(part_name(static_cast<ModelPart>(i)), report.parts[i]);
  }
  row("total", report.total);
  fmt::print(
      "\nKV cache of a rank: {} bytes a token\nA decoded token: {} messages, {} bytes sent by all "
      "ranks together\n",
      report.kv_bytes_per_token, report.traffic.operations, report.traffic.sent_bytes);
}

Json ranks_json(const RanksReport& report, const InspectArguments& arguments) {
  Json parts = Json::object();
  const auto entry = [](const model::PartBytes& part) -> Json {
    return {{"bytes", part.whole},
            {"rank_bytes", part.rank},
            {"replicated_bytes", part.all_ranks - part.whole}};
  };
  for (std::size_t i = 0; i < kNumModelParts; ++i) {
    if (report.parts[i].whole > 0)
      parts[std::string(part_name(static_cast<ModelPart>(i)))] = entry(report.parts[i]);
  }
  return {{"size", arguments.ranks},
          {"expert_parallel", arguments.expert_parallel},
          {"parts", std::move(parts)},
          {"total", entry(report.total)},
          {"kv_bytes_per_token", report.kv_bytes_per_token},
          {"messages_per_token", report.traffic.operations},
          {"sent_bytes_per_token", report.traffic.sent_bytes}};
}

void run(const InspectArguments& arguments) {
  const Checkpoint checkpoint = Checkpoint::open(arguments.directory);
  if (arguments.ranks > 0) {
    const RanksReport report = report_ranks(checkpoint, arguments);
    if (!arguments.json) return print_ranks(report, arguments);
    const Json json = ranks_json(report, arguments);
    fmt::print("{}\n", json.dump(2, ' ', false, Json::error_handler_t::replace));
    return;
  }
  const Inspection inspection = inspect(checkpoint);
  if (arguments.json) return print_json(checkpoint, inspection, arguments.tensors);
  if (arguments.tensors) print_tensors(checkpoint);
  print_table(inspection);
}

}  // namespace

void add_inspect(CLI::App& app) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command = app.add_subcommand("inspect", "Show what a checkpoint holds");
  prepare(*command);
  command->add_option("dir", arguments->directory, "Checkpoint directory")->required();
  command->add_flag("--json", arguments->json, "Print JSON");
  command->add_flag("--tensors", arguments->tensors, "List every tensor");
  command
      ->add_option(both_spellings("--tensor-parallel-size"), arguments->ranks,
                   "What each of so many processes holds and sends")
      ->check(CLI::PositiveNumber);
  command->add_flag(
      "--expert-parallel,--enable-expert-parallel,--expert_parallel,"
      "--enable_expert_parallel",
      arguments->expert_parallel, "The same with whole experts per process");
  command
      ->add_option(both_spellings("--mm-encoder-tp-mode"), arguments->encoder_mode,
                   "weights or data, as for quern serve")
      ->check(CLI::IsMember({"weights", "data"}));
  command->callback([arguments, command] {
    refuse_unknown(*command);
    run(*arguments);
  });
}

}  // namespace quern::cli
