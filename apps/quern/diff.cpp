// quern diff: how two checkpoints differ; exit status 0 when they do not, 1 when they do, 2
// on trouble, as diff(1).
// Must never report equal without having compared every byte of every tensor.
// Proved by tests/checkpoint/inspect_diff_test.cc.
#include "quern/checkpoint/diff.h"

#include <fmt/format.h>

#include <memory>

#include "command.h"
#include "options.h"
#include "quern/base/error.h"

namespace quern::cli {
namespace {

using Kind = TensorDiff::Kind;

struct DiffArguments {
  std::string a;
  std::string b;
  DiffOptions options;
};

std::string line(const TensorDiff& diff) {
  switch (diff.kind) {
    case Kind::kIdentical:
      break;
    case Kind::kOnlyInA:
      return fmt::format("- {}  {}", diff.name, diff.a);
    case Kind::kOnlyInB:
      return fmt::format("+ {}  {}", diff.name, diff.b);
    case Kind::kForm:
      return fmt::format("! {}  {} | {}", diff.name, diff.a, diff.b);
    case Kind::kValues:
    case Kind::kQuantized:
      return fmt::format("~ {}  {} | {}  max error {:.6g}, SQNR {:.2f} dB", diff.name, diff.a,
                         diff.b, diff.max_abs_error, diff.sqnr_db);
  }
  return "";
}

void print(const CheckpointDiff& diff) {
  for (const TensorDiff& tensor : diff.tensors) {
    if (tensor.kind != Kind::kIdentical) fmt::print("{}\n", line(tensor));
  }
  for (const std::string& key : diff.config_keys) fmt::print("config.json: {}\n", key);
  fmt::print("{} of {} tensors byte-identical", diff.count(Kind::kIdentical), diff.tensors.size());
  const auto also = [&](Kind kind, const char* what) {
    if (const std::size_t count = diff.count(kind)) fmt::print(", {} {}", count, what);
  };
  also(Kind::kValues, "with other values");
  also(Kind::kQuantized, "quantized on one side");
  also(Kind::kForm, "of other dtype or shape");
  also(Kind::kOnlyInA, "only in A");
  also(Kind::kOnlyInB, "only in B");
  fmt::print("; config.json: {} differing keys\n", diff.config_keys.size());
}

CheckpointDiff compare(const DiffArguments& arguments) {
  try {
    return diff_checkpoints(Checkpoint::open(arguments.a), Checkpoint::open(arguments.b),
                            arguments.options);
  } catch (const Error& error) {
    throw UsageError(
        std::string(error.what()));  // status 2 as in diff(1): 1 says that the checkpoints differ
  }
}

void run(const DiffArguments& arguments) {
  const CheckpointDiff diff = compare(arguments);
  print(diff);
  if (!diff.identical()) throw CLI::RuntimeError(1);
}

}  // namespace

void add_diff(CLI::App& app) {
  auto arguments = std::make_shared<DiffArguments>();
  CLI::App* command =
      app.add_subcommand("diff", "Compare two checkpoints (exit status 1 when they differ)");
  prepare(*command);
  command->add_option("a", arguments->a, "Checkpoint directory A")->required();
  command->add_option("b", arguments->b, "Checkpoint directory B")->required();
  command
      ->add_option(both_spellings("--ignore-config-key"), arguments->options.ignore_config_keys,
                   "Path in config.json to leave out, with all below it (may be repeated)")
      ->allow_extra_args(false);
  command->add_option("--threads", arguments->options.threads, "Threads, 0 for one a core")
      ->check(CLI::Range(0, 1024));
  command->callback([arguments, command] {
    refuse_unknown(*command);
    run(*arguments);
  });
}

}  // namespace quern::cli
