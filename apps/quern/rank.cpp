// quern rank: a process of a model that several share. Started by the program itself, under mpirun.
// Must never be needed by a user: it is not in the help.
// Proved by tests/apps/parallel_program_test.cc.
#include <memory>
#include <string>

#include "command.h"
#include "parallel.h"
#include "quern/base/log.h"
#include "quern/engine/rank_worker.h"

namespace quern::cli {

void add_rank(CLI::App& app) {
  struct Arguments {
    std::string socket;
    int timeout = 120;
    std::string log_level = "warning";
  };
  CLI::App* command = app.add_subcommand("rank", "")->group("");
  const auto arguments = std::make_shared<Arguments>();
  command->add_option("--socket", arguments->socket);
  command->add_option("--timeout", arguments->timeout)->check(CLI::PositiveNumber);
  command->add_option("--log-level", arguments->log_level);
  command->callback([arguments] {
    init_logging(arguments->log_level);
    const Rank place = launched_rank();
    throw CLI::RuntimeError(
        engine::run_rank({place.rank, place.world_size}, arguments->socket, arguments->timeout));
  });
}

}  // namespace quern::cli
