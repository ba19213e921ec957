// Module names against patterns, as Python's fnmatch.fnmatchcase answers.
#include "quern/quantize/fnmatch.h"

#include <gtest/gtest.h>

#include <string>

namespace quern {
namespace {

TEST(Fnmatch, Table) {
  struct {
    const char* name;
    const char* pattern;
    bool matches;
  } const rows[] = {
      {"lm_head", "lm_head", true},
      {"language_model.lm_head", "lm_head", false},
      {"language_model.lm_head", "*lm_head", true},
      {"a.b.c", "a*c", true},
      {"a.layers.0.mlp.gate_proj", "*mlp.gate_proj", true},
      {"a.block_sparse_moe.shared_experts.gate_proj", "*mlp.gate_proj", false},
      {"patch_merge_mlp.linear_1", "*mlp.gate_proj", false},
      {"a.block_sparse_moe.gate", "*block_sparse_moe.gate", true},
      {"a.block_sparse_moe.gate_proj", "*block_sparse_moe.gate", false},
      {"a.block_sparse_moe.gate.inner", "*block_sparse_moe.gate", false},
      {"abc", "", false},
      {"", "", true},
      {"", "*", true},
      {"", "?", false},
      {"abc", "a?c", true},
      {"a.c", "a?c", true},
      {"abc", "a[xbz]c", true},
      {"abc", "a[a-c]c", true},
      {"abc", "a[d-f]c", false},
      {"abc", "a[!d-f]c", true},
      {"abc", "a[!a-c]c", false},
      {"a]c", "a[]]c", true},
      {"abc", "a[!]]c", true},
      {"a-c", "a[x-]c", true},
      {"abc", "a[z-a]c", false},
      {"abc", "a[!z-a]c", true},
      {"a[c", "a[c", true},
      {"a[]c", "a[]c", true},
      {"abc", "ABC", false},
      {"a\\b", "a\\b", true},
      {"mississippi", "m*iss*ip*i", true},
      {"mississippi", "m*iss*ipx*i", false},
      {"aab", "*a*b*", true},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(fnmatch(row.name, row.pattern), row.matches) << row.name << " " << row.pattern;
  }
}

TEST(Fnmatch, ManyStarsEnd) {
  std::string pattern;
  for (int i = 0; i < 200; ++i) pattern += "*a";
  EXPECT_FALSE(fnmatch(std::string(5000, 'a') + "b", pattern));
}

}  // namespace
}  // namespace quern
