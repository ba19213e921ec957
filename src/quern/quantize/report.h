// What quantization cost, by tensor class and tensor: console table, JSON, one HTML page.
// Must never hold anything that differs between two runs of the same job (times, paths).
// Proved by tests/quantize/report_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/quantize/manifest.h"

namespace quern {

// Tensors of one class and scheme together.
struct ClassReport {
  std::string name;
  std::string scheme;
  std::uint64_t tensors = 0;
  std::uint64_t source_bytes = 0;
  std::uint64_t output_bytes = 0;
  std::uint64_t measured = 0;  // tensors with statistics; formats without a decoder have none
  WeightStatistics statistics;
  std::string worst_tensor;  // the one with the lowest SQNR; after sort()
  double worst_sqnr_db = 0;
};

// One tensor, without its histogram.
struct TensorQuality {
  std::string name;
  std::string scheme;
  bool measured = false;
  double signal = 0;
  double noise = 0;
  double clipped_share = 0;
  double flushed_share = 0;
  double max_peak_error = 0;

  double sqnr_db() const;
};

struct QualityReport {
  std::vector<ClassReport> classes;    // by name and scheme
  std::vector<TensorQuality> tensors;  // worst first after sort(), those not measured last

  void add(const TensorRecord& tensor);
  void sort();
};

// A table of the classes, the scale histogram of each, and the `worst` worst tensors.
std::string quality_table(const QualityReport& report, std::size_t worst = 5);
// The content of quantize_report.json.
Json quality_json(const QualityReport& report);
// One page that needs nothing else: SQNR by layer, scale histograms, a heat map of experts.
std::string quality_html(const QualityReport& report, const std::string& title);

}  // namespace quern
