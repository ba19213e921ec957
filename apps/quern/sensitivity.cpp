// `quern sensitivity`: which part of the recipe costs how much, and what to exclude for a size
// budget.
// Must never compute: it calls eval/sensitivity.h, prints and writes.
// Proved by tests/apps/program_test.cc (the list is followed) and tests/eval/sensitivity_test.cc.
#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "options.h"
#include "quern/base/file.h"
#include "quern/eval/python_text.h"
#include "quern/eval/sensitivity.h"

namespace quern::cli {

void add_sensitivity(CLI::App& app) {
  struct Arguments {
    SensitivityOptions options;
    std::string size_budget;
    std::string output;
  };
  CLI::App* command = app.add_subcommand(
      "sensitivity", "which part of the quantization recipe costs how much divergence");
  const auto arguments = std::make_shared<Arguments>();
  SensitivityOptions& options = arguments->options;
  command->add_option("--model_dir,--model-dir", options.model_dir, "the base model")->required();
  command->add_option("--data", options.data, "texts, as for quern eval --tasks divergence")
      ->required();
  command->add_option("--quant_scheme,--quant-scheme", options.quant_scheme, "Quark's name")
      ->capture_default_str();
  command->add_option("--template", options.template_name,
                      "the recipe; by default the built-in one of the model type");
  command->add_option("--size_budget,--size-budget", arguments->size_budget,
                      "bytes that a suggested list of exclusions may add (1M, 2G, ...)");
  command
      ->add_option("--data_template,--data-template", options.text.row_template,
                   "Jinja over a row of a .jsonl file")
      ->capture_default_str();
  command->add_option("--context", options.text.window, "tokens of one text")
      ->capture_default_str();
  command->add_option("--limit", options.text.limit, "texts; 0 = all")->capture_default_str();
  command->add_option("--threads", options.model.threads, "threads of the model; 0 = one a core")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--scratch_dir,--scratch-dir", options.scratch_dir,
                      "where quantized models are written and removed");
  command->add_option("--output,-o", arguments->output, "write all figures to FILE as JSON");
  command->callback([arguments] {
    if (!arguments->size_budget.empty()) {
      const std::int64_t bytes = parse_count(arguments->size_budget, "--size_budget");
      arguments->options.extra_bytes = bytes < 0 ? 0 : static_cast<std::uint64_t>(bytes);
    }
    const Sensitivity found = measure_sensitivity(arguments->options);
    if (!arguments->output.empty()) {
      write_file(arguments->output,
                 python_json(sensitivity_json(found), {.ensure_ascii = false, .indent = 2}) + "\n");
    }
    fmt::print("{}", sensitivity_table(found));
  });
}

}  // namespace quern::cli
