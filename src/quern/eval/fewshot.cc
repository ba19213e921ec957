// See fewshot.h. Source: lm-evaluation-harness lm_eval/api/samplers.py.
#include "quern/eval/fewshot.h"

#include <numeric>

#include "quern/base/error.h"

namespace quern {

FewshotSampler::FewshotSampler(FewshotKind kind, const std::vector<Json>& pool, std::int64_t seed)
    : kind_(kind), pool_(pool), random_(seed) {}

std::vector<std::size_t> FewshotSampler::next(std::size_t count, const Json* exclude) {
  if (count == 0) return {};
  std::vector<std::size_t> drawn;
  if (kind_ == FewshotKind::kFirstN) {
    drawn.resize(pool_.size());
    std::iota(drawn.begin(), drawn.end(), std::size_t{0});
  } else {
    drawn = random_.sample(pool_.size(), count + (exclude != nullptr ? 1 : 0));
  }
  if (exclude != nullptr) std::erase_if(drawn, [&](std::size_t i) { return pool_[i] == *exclude; });
  if (drawn.size() < count) throw Error("{} examples wanted, {} available", count, drawn.size());
  drawn.resize(count);
  return drawn;
}

}  // namespace quern
