// The program `quern`: dispatches to the subcommands, turns errors into one line and an exit
// status. Must never let an exception escape. Proved by tests/apps.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <iterator>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "arguments.h"
#include "command.h"
#include "parallel.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/version.h"

int main(int argc, char** argv) {
  CLI::App app{"quern: quantize, serve and evaluate MiniMax-M3 checkpoints", "quern"};
  try {
    quern::init_logging();
    app.set_version_flag("--version", fmt::format("quern {}", quern::version()),
                         "Print the version and exit");
    app.require_subcommand(1);
    quern::cli::add_quantize(app);
    quern::cli::add_inspect(app);
    quern::cli::add_diff(app);
    quern::cli::add_serve(app);
    quern::cli::add_chat(app);
    quern::cli::add_generate(app);
    quern::cli::add_eval(app);
    quern::cli::add_compare(app);
    quern::cli::add_card(app);
    quern::cli::add_sensitivity(app);
    quern::cli::add_bench(app);
    quern::cli::add_rank(app);
    std::vector<std::string> words(argv + 1, argv + argc);
    if (quern::cli::joins_rank_zero(words)) words = {"rank"};
    constexpr std::string_view kTakesModelOptions[] = {"serve", "chat", "generate"};
    if (!words.empty() && std::find(std::begin(kTakesModelOptions), std::end(kTakesModelOptions),
                                    words.front()) != std::end(kTakesModelOptions)) {
      words = quern::cli::expand_arguments({words.begin() + 1, words.end()});
      words.insert(words.begin(), argv[1]);
    }
    std::reverse(words.begin(), words.end());  // CLI11 takes them from the back
    app.parse(std::move(words));
    return 0;
  } catch (const CLI::RuntimeError& error) {  // a command's own exit status, already explained
    return error.get_exit_code();
  } catch (const CLI::ParseError& error) {
    const int status = app.exit(error);
    return status == 0 ? 0 : 2;
  } catch (const quern::UsageError& error) {
    std::fprintf(stderr, "quern: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "quern: %s\n", error.what());
    return 1;
  }
}
