// `quern compare BASE QUANT`: two evaluations side by side, with the recovery and its interval.
// Must never compute: it calls eval/compare.h, prints and writes files.
// Proved by tests/apps.
#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/compare.h"
#include "quern/eval/compare_report.h"
#include "quern/eval/python_text.h"

namespace quern::cli {

void add_compare(CLI::App& app) {
  struct Arguments {
    std::string base;
    std::string quantized;
    std::string output = "table";
    std::string markdown;
    std::string html;
  };
  CLI::App* compare =
      app.add_subcommand("compare", "recovery of a quantized model against its base");
  const auto arguments = std::make_shared<Arguments>();
  compare
      ->add_option("base", arguments->base,
                   "results or samples file of the base model, or a directory")
      ->required();
  compare
      ->add_option("quantized", arguments->quantized,
                   "results or samples file of the quantized model, or a directory")
      ->required();
  compare->add_option("--output", arguments->output, "table or json")
      ->check(CLI::IsMember({"table", "json"}))
      ->capture_default_str();
  compare->add_option("--markdown", arguments->markdown,
                      "write tables and the questions lost and won, with both answers, to FILE");
  compare->add_option("--html", arguments->html,
                      "write one self-contained page, all questions side by side, to FILE");
  compare->callback([arguments] {
    const Comparison comparison =
        compare_runs(read_run(arguments->base), read_run(arguments->quantized));
    if (arguments->output == "json") {
      fmt::print("{}\n",
                 python_json(comparison_json(comparison), {.ensure_ascii = false, .indent = 2}));
    } else {
      fmt::print("{}", comparison_table(comparison));
    }
    const auto save = [](const std::string& file, const std::string& text) {
      write_file(file, text);
      spdlog::info("written: {}", file);
    };
    if (!arguments->markdown.empty()) save(arguments->markdown, comparison_markdown(comparison));
    if (!arguments->html.empty()) save(arguments->html, comparison_html(comparison));
  });
}

}  // namespace quern::cli
