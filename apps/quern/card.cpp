// `quern card Q --base BASE --results FILE...`: the README.md of a quantized checkpoint.
// Must never compute: it calls eval/model_card.h and writes.
// Proved by tests/apps and `make demo`.
#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/model_card.h"

namespace quern::cli {

void add_card(CLI::App& app) {
  struct Arguments {
    CardSources sources;
    std::string output;
    bool overwrite = false;
  };
  CLI::App* card =
      app.add_subcommand("card", "write the README.md of a quantized checkpoint from its files");
  const auto arguments = std::make_shared<Arguments>();
  card->add_option("quantized", arguments->sources.quantized, "directory of the quantized model")
      ->required();
  card->add_option("--base", arguments->sources.base, "directory of the base model")->required();
  card->add_option(
      "--results", arguments->sources.results,
      "results of the quantized model: files of quern eval or lm-eval, or directories");
  card->add_option("--base_results,--base-results", arguments->sources.base_results,
                   "results of the base model, for the recovery");
  card->add_option("--output,-o", arguments->output, "where to write; Q/README.md by default");
  card->add_flag("--overwrite", arguments->overwrite, "replace a file that is there");
  card->callback([arguments] {
    const std::filesystem::path file = arguments->output.empty()
                                           ? arguments->sources.quantized / "README.md"
                                           : std::filesystem::path(arguments->output);
    if (!arguments->overwrite && std::filesystem::exists(file))
      throw Error("'{}' exists; give --overwrite or --output FILE", file.string());
    write_file(file, model_card(arguments->sources));
    spdlog::info("written: {}", file.string());
  });
}

}  // namespace quern::cli
