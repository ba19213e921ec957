// `quern compare BASE QUANT`: two evaluations side by side, with the recovery and its interval.
// Must never compute: it calls eval/compare.h and prints.
// Proved by tests/apps.
#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "quern/base/error.h"
#include "quern/eval/compare.h"
#include "quern/eval/python_text.h"

namespace quern::cli {

void add_compare(CLI::App& app) {
  struct Arguments {
    std::string base;
    std::string quantized;
    std::string output = "table";
  };
  CLI::App* compare =
      app.add_subcommand("compare", "recovery of a quantized model against its base");
  const auto arguments = std::make_shared<Arguments>();
  compare->add_option("base", arguments->base, "results file of the base model, or its directory")
      ->required();
  compare
      ->add_option("quantized", arguments->quantized,
                   "results file of the quantized model, or its directory")
      ->required();
  compare->add_option("--output", arguments->output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  compare->callback([arguments] {
    const auto scores = compare_results(find_results_file(arguments->base),
                                        find_results_file(arguments->quantized));
    if (arguments->output == "json") {
      fmt::print("{}\n",
                 python_json(comparison_json(scores), {.ensure_ascii = false, .indent = 2}));
    } else {
      fmt::print("{}", comparison_table(scores));
    }
  });
}

}  // namespace quern::cli
