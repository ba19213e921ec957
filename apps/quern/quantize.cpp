// quern quantize: a checkpoint to MXFP4, file to file, as Quark's quantize_quark.py.
// Must never write before the whole plan stands.
// Proved by tests/quantize and tests/apps.
#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <optional>

#include "command.h"
#include "options.h"
#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/quantize/pipeline.h"
#include "quern/quantize/ranks.h"
#include "quern/quantize/template.h"
#include "quern/quantize/verify.h"

namespace quern::cli {
namespace {

// Of Quark's quantize_quark.py.
constexpr AcceptedOption kAcceptedByQuantize[] = {
    {"--file2file-quantization", false, "always file to file"},
    {"--device", true, "the CPU does the work"},
    {"--multi-gpu", false, "the CPU does the work"},
    {"--skip-evaluation", false, "see quern eval"},
    {"--trust-remote-code", false, "no code of the checkpoint is run"},
    {"--model-export", true, "always safetensors in Quark's form"},
};

struct QuantizeArguments {
  std::string model_dir;
  std::string output_dir;
  QuantizeOptions options;
  std::vector<std::string> exclude_layers;
  std::vector<std::string> presharded;
  std::string scale_rule = "even";
  std::string importance;
  std::uint64_t memory_budget_mib = 256;
  std::optional<int> rank;
  std::optional<int> world_size;
  std::string report_html;
  bool no_report = false;
  bool verify = false;
  bool dry_run = false;
  bool list_templates = false;
  bool list_schemes = false;
};

void print_templates() {
  for (const ModelTemplate& entry : builtin_templates()) {
    fmt::print("{:<20} excludes {}\n", entry.model_type, fmt::join(entry.exclude_layers_name, " "));
  }
}

// What a server will lack stands below, once for all schemes that lack it.
void print_schemes() {
  std::vector<std::string_view> notes;
  const auto mark = [&](std::string_view note) {
    if (note.empty()) return std::string();
    if (std::ranges::count(notes, note) == 0) notes.push_back(note);
    return fmt::format(" [{}]", std::ranges::find(notes, note) - notes.begin() + 1);
  };
  for (const std::string_view name : quark_scheme_names()) {
    const auto schemes = supported_schemes();
    const auto found = std::ranges::find(schemes, name, &Scheme::name);
    fmt::print("{:<24} {}\n", name,
               found == schemes.end() ? "known to Quark, not supported"
                                      : scheme_text(*found) + mark(missing_for_server(*found)));
  }
  for (std::size_t i = 0; i < notes.size(); ++i) fmt::print("[{}] {}\n", i + 1, notes[i]);
}

void print_report(const QuantizeReport& report) {
  const auto bytes = [](std::uint64_t count) { return bytes_text(static_cast<double>(count)); };
  if (!report.quality.tensors.empty()) fmt::print("{}", quality_table(report.quality));
  fmt::print("shards             {} written, {} done before\n", report.shards,
             report.skipped_shards);
  fmt::print("tensors quantized  {}\n", report.quantized_tensors);
  fmt::print("tensors copied     {}\n", report.copied_tensors);
  fmt::print("bytes in           {}\n", bytes(report.source_bytes));
  fmt::print("bytes out          {}\n", bytes(report.output_bytes));
  fmt::print("time               {:.2f} s, {:.2f} GB/s of source\n", report.seconds,
             static_cast<double>(report.source_bytes) / report.seconds / 1e9);
  if (report.missing_shards > 0) {
    fmt::print("{} shards are still with other ranks; the last to finish writes index and config\n",
               report.missing_shards);
  }
}

void print_verified(const VerifyReport& report) {
  fmt::print("verified           {} shards, {} tensors, {}\n", report.shards, report.tensors,
             bytes_text(static_cast<double>(report.bytes)));
}

// Given options win over the launcher's environment.
void choose_rank(const QuantizeArguments& arguments, QuantizeOptions& options) {
  if (arguments.rank.has_value() != arguments.world_size.has_value()) {
    throw UsageError("--rank and --world_size belong together");
  }
  const Rank rank = arguments.rank ? Rank{*arguments.rank, *arguments.world_size}
                                   : rank_from_environment(environment);
  options.rank = rank.rank;
  options.world_size = rank.world_size;
  if (options.rank >= options.world_size) {
    throw UsageError(
        fmt::format("--rank {} is not below --world_size {}", options.rank, options.world_size));
  }
}

PreshardedWeights parse_presharded(const std::vector<std::string>& entries) {
  PreshardedWeights weights;
  for (const std::string& entry : entries) {
    const std::size_t equals = entry.rfind('=');
    std::uint64_t rows = 0;
    const char* end = entry.data() + entry.size();
    const bool good = equals != std::string::npos && equals > 0 &&
                      std::from_chars(entry.data() + equals + 1, end, rows).ptr == end && rows > 0;
    if (!good) throw UsageError("--presharded_weights: expected PATTERN=ROWS, found '{}'", entry);
    weights.emplace_back(entry.substr(0, equals), rows);
  }
  return weights;
}

void run(QuantizeArguments& arguments, bool exclude_given) {
  if (arguments.list_templates) return print_templates();
  if (arguments.list_schemes) return print_schemes();
  if (arguments.output_dir.empty() && !arguments.dry_run)
    throw UsageError("--output_dir is required");
  if (arguments.model_dir.empty()) {
    if (!arguments.verify) throw UsageError("--model_dir is required");
    return print_verified(verify_output(arguments.output_dir));
  }
  if (arguments.no_report && !arguments.report_html.empty())
    throw UsageError("--report needs what --no_report leaves out");
  QuantizeOptions& options = arguments.options;
  options.model_dir = arguments.model_dir;
  options.output_dir = arguments.output_dir;
  options.memory_budget_bytes = arguments.memory_budget_mib << 20;
  options.report = !arguments.no_report;
  choose_rank(arguments, options);
  options.scale_rule = scale_rule_from_name(arguments.scale_rule).value();
  options.importance_file = arguments.importance;
  options.presharded_weights = parse_presharded(arguments.presharded);
  if (exclude_given) options.exclude_layers = arguments.exclude_layers;
  const QuantizePlan plan = make_plan(options);
  for (const std::string& note : plan.notes) spdlog::warn("{}", note);
  if (arguments.dry_run) {
    fmt::print("{}", plan_text(plan));
    return;
  }
  prepare_output_directory(options);
  const QuantizeReport report = run_plan(plan, options);
  print_report(report);
  if (report.missing_shards > 0) return;
  if (!arguments.report_html.empty()) {
    write_file(arguments.report_html,
               quality_html(report.quality, options.output_dir.filename().string()));
    fmt::print("report             {}\n", arguments.report_html);
  }
  if (arguments.verify) print_verified(verify_output(options.output_dir));
}

}  // namespace

void add_quantize(CLI::App& app) {
  auto arguments = std::make_shared<QuantizeArguments>();
  CLI::App* command =
      app.add_subcommand("quantize", "Quantize a checkpoint to MXFP4, file to file");
  command->allow_extras();  // for refuse_unknown()
  auto accepted = std::make_shared<AcceptedOptions>(*command, std::begin(kAcceptedByQuantize),
                                                    std::end(kAcceptedByQuantize));
  command->add_option("--model_dir,--model-dir", arguments->model_dir, "Checkpoint to read");
  command->add_option("--output_dir,--output-dir", arguments->output_dir, "Directory to write");
  command
      ->add_option("--quant_scheme,--quant-scheme", arguments->options.quant_scheme,
                   "Scheme by Quark's name (see --list_schemes)")
      ->capture_default_str();
  command
      ->add_option("--layer_config,--layer-config", arguments->options.layer_config,
                   "PATTERN=SCHEME for the layers that match, before --quant_scheme; repeatable, "
                   "the first that matches counts, excluded layers stay excluded")
      ->expected(1, 1 << 16);
  command
      ->add_option("--scale_rule,--scale-rule", arguments->scale_rule,
                   "How the scale of an MXFP4 block is chosen: even (Quark's), floor, ceil, rceil, "
                   "or search (the least squared error of three)")
      ->check(CLI::IsMember({"even", "floor", "ceil", "rceil", "search"}))
      ->capture_default_str();
  command->add_option("--importance", arguments->importance,
                      "For --scale_rule search: a safetensors file with a F32 tensor [in] of the "
                      "weight's name for each layer, the mean square of its inputs");
  command->add_flag("--weight_converters,--weight-converters",
                    arguments->options.template_converters,
                    "Take fused expert tensors apart as the template says (weight_converters)");
  command->add_flag(
      "--keep_excluded_layers_as_original_model_state,"
      "--keep-excluded-layers-as-original-model-state",
      arguments->options.keep_excluded_layers_as_original_model_state,
      "Excluded layers of a quantized source stay in its format");
  command
      ->add_option("--presharded_weights,--presharded-weights", arguments->presharded,
                   "PATTERN=ROWS for FP8 weights whose scales start anew every ROWS rows; "
                   "default: what the source's quantization_config says")
      ->expected(1, 1 << 16);
  CLI::Option* exclude =
      command
          ->add_option("--exclude_layers,--exclude-layers", arguments->exclude_layers,
                       "Patterns of modules that stay as they are; replaces the template's list")
          ->expected(0, 1 << 16);
  command->add_option(
      "--template", arguments->options.template_name,
      "Built-in template, or a .yaml file of the same form (default: the model type's)");
  command->add_flag(
      "--overwrite", arguments->options.overwrite,
      "Replace what is in the output directory; without it an unfinished run is gone on with");
  command->add_flag("--dry_run,--dry-run", arguments->dry_run,
                    "Print what would happen to each tensor");
  command->add_option("--threads", arguments->options.threads, "Threads (0: one per core)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  command
      ->add_option("--memory_budget,--memory-budget", arguments->memory_budget_mib,
                   "Memory for buffers, MiB")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  command
      ->add_option("--rank", arguments->rank,
                   "Which of several processes this is; each takes a part of the shards. Default: "
                   "what mpirun or srun says")
      ->check(CLI::Range(0, 1 << 20));
  command
      ->add_option("--world_size,--world-size", arguments->world_size,
                   "Number of processes that share the job through a common file system")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--report", arguments->report_html,
                      "Write a page (HTML) with errors by layer and expert, and scale histograms");
  command->add_flag("--no_report,--no-report", arguments->no_report,
                    "Do not measure what is lost; no quantize_report.json");
  command->add_flag("--verify", arguments->verify,
                    "Read the output again and compare it with the record of the run; alone with "
                    "--output_dir it only does that");
  command->add_flag("--list_templates,--list-templates", arguments->list_templates,
                    "List the built-in templates");
  command->add_flag("--list_schemes,--list-schemes", arguments->list_schemes,
                    "List Quark's schemes");
  command->callback([arguments, exclude, command, accepted] {
    refuse_unknown(*command);
    accepted->log();
    run(*arguments, exclude->count() > 0);
  });
}

}  // namespace quern::cli
