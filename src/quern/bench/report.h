// The results of model_bench.h as llama-bench's table, as profiles and as JSON.
// Must never print.
// Proved by tests/bench/report_test.cc.
#pragma once

#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/bench/model_bench.h"

namespace quern::bench {

struct BenchRow {
  ModelSummary model;
  int threads = 0;
  BenchResult result;
};

// Lines with their line breaks; rows have the header's columns.
std::string table_header();
std::string table_row(const BenchRow& row);

// "machine: 2 threads, 24.1 GB/s read, ..." for each number of threads.
std::string machine_lines(const std::vector<BenchRow>& rows);

// Where the time of a test goes, an operation a line.
std::string profile_table(const BenchRow& row);

// An array with an object for each row; llama-bench's names where it has the field.
Json results_json(const std::vector<BenchRow>& rows);

}  // namespace quern::bench
