// The words of a command line before CLI11 sees them, in the forms that `vllm serve` takes:
// --config FILE.yaml, dotted pieces of JSON options, -tp and its like.
// Must never let a file win over the command line. Proved by tests/apps/arguments_test.cc.
#pragma once

#include <string>
#include <vector>

namespace quern::cli {

// `words` without the program's name and the subcommand. Throws UsageError that names file and key.
std::vector<std::string> expand_arguments(const std::vector<std::string>& words);

}  // namespace quern::cli
