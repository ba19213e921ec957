// PythonRandom against CPython 3.11 (values printed by `random.Random(seed)`).
#include "quern/eval/python_random.h"

#include <gtest/gtest.h>

#include "quern/base/error.h"

namespace quern {
namespace {

TEST(PythonRandom, FirstOutputsOfSeeds) {
  const struct {
    std::int64_t seed;
    std::uint32_t outputs[3];
  } rows[] = {
      {1234, {4150886329U, 3342196574U, 1892932127U}},
      {-1234, {4150886329U, 3342196574U, 1892932127U}},
      {0, {3626764237U, 1654615998U, 3255389356U}},
      {1, {577090037U, 2444712010U, 3639700191U}},
      {42, {2746317213U, 478163327U, 107420369U}},
      {INT64_C(1) << 32, {485306839U, 1508871100U, 1794561286U}},
      {(INT64_C(1) << 40) + 7, {2635837658U, 3209733218U, 3500038837U}},
  };
  for (const auto& row : rows) {
    PythonRandom random(row.seed);
    for (const std::uint32_t expected : row.outputs)
      EXPECT_EQ(random.next32(), expected) << row.seed;
  }
}

TEST(PythonRandom, SamplesWithPoolAndWithSet) {
  using Picks = std::vector<std::size_t>;
  const struct {
    std::size_t n, k;
    Picks first, second;
  } rows[] = {
      {20, 5, {14, 3, 0, 2, 1}, {2, 3, 11, 7, 0}},
      {21, 5, {14, 3, 0, 2, 1}, {2, 3, 11, 7, 0}},
      {22, 5, {14, 3, 0, 2, 18}, {1, 21, 2, 3, 11}},
      {1209, 6, {902, 239, 15, 185, 1192, 71}, {171, 201, 726, 484, 35, 63}},
  };
  for (const auto& row : rows) {
    PythonRandom random(1234);
    EXPECT_EQ(random.sample(row.n, row.k), row.first) << row.n;
    EXPECT_EQ(random.sample(row.n, row.k), row.second) << row.n;
  }
  EXPECT_EQ(PythonRandom(1234).sample(7473, 8),
            (Picks{6374, 3610, 957, 61, 742, 7462, 6610, 4769}));
}

TEST(PythonRandom, RefusesMoreThanThereAre) { EXPECT_THROW(PythonRandom(1).sample(3, 4), Error); }

}  // namespace
}  // namespace quern
