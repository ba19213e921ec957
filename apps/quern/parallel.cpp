// See parallel.h.
#include "parallel.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "quern/base/env.h"

namespace quern::cli {

Rank launched_rank() {
  return rank_from_environment([](const char* name) { return environment(name); });
}

bool joins_rank_zero(const std::vector<std::string>& words) {
  if (words.empty()) return false;
  static constexpr std::string_view kWithModel[] = {"serve", "chat", "generate"};
  const bool with_model = std::find(std::begin(kWithModel), std::end(kWithModel), words.front()) !=
                          std::end(kWithModel);
  // An evaluation may have its model in this process.
  const bool evaluates =
      words.front() == "eval" && std::ranges::any_of(words, [](const std::string& word) {
        return word.find("tensor_parallel_size=") != std::string::npos;
      });
  return (with_model || evaluates) && launched_rank().rank > 0;
}

}  // namespace quern::cli
