// What main.cpp and the subcommands share: each subcommand registers itself on the CLI11
// application. Must never hold logic: a command parses options, calls the library, prints. Proved
// by tests/apps (each command is run there).
#pragma once

#include <CLI/CLI.hpp>

namespace quern::cli {

// Each adds one subcommand and its callback. A callback throws quern::Error (exit 1) or UsageError
// (exit 2).
void add_quantize(CLI::App& app);
void add_inspect(CLI::App& app);
void add_diff(CLI::App& app);
void add_generate(CLI::App& app);
void add_chat(CLI::App& app);
void add_serve(CLI::App& app);
void add_eval(CLI::App& app);
void add_compare(CLI::App& app);
void add_card(CLI::App& app);
void add_sensitivity(CLI::App& app);
void add_bench(CLI::App& app);
void add_rank(CLI::App& app);

}  // namespace quern::cli
