// See parallel.h.
#include "parallel.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "quern/base/env.h"
#include "quern/engine/rank_worker.h"

namespace quern::cli {

Rank launched_rank() {
  return rank_from_environment([](const char* name) { return environment(name); });
}

bool joins_rank_zero(const std::vector<std::string>& words) {
  if (words.empty()) return false;
  static constexpr std::string_view kWithModel[] = {"serve", "chat", "generate"};
  const bool with_model = std::find(std::begin(kWithModel), std::end(kWithModel), words.front()) !=
                          std::end(kWithModel);
  return with_model && launched_rank().rank > 0;
}

int serve_rank_zero() {
  const Rank place = launched_rank();
  return engine::run_rank({place.rank, place.world_size}, {},
                          engine::ParallelOptions().timeout_seconds);
}

}  // namespace quern::cli
