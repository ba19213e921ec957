// See report.h; the page is report_page.html.
#include "quern/quantize/report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <tuple>

#include "quern/base/progress.h"
#include "quern/quantize/tensor_class.h"
#include "report_page.h"

namespace quern {
namespace {

double share(std::uint64_t part, std::uint64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

// Four digits behind the point: sums are rounded differently by each instruction set.
Json rounded(double value) {
  if (!std::isfinite(value)) return nullptr;
  return std::round(value * 1e4) / 1e4;
}

std::string db_text(double value) {
  return std::isfinite(value) ? fmt::format("{:.2f}", value) : "inf";
}

Json scales_json(const WeightStatistics& statistics) {
  return statistics_json(statistics)["scales"];
}

void add_quality(Json& json, double sqnr_db, double clipped, double flushed, double peak_error) {
  json["sqnr_db"] = rounded(sqnr_db);
  json["clipped_share"] = clipped;
  json["flushed_share"] = flushed;
  json["max_peak_error"] = rounded(peak_error);
}

// "2^-9 .. 2^-3 |.:+#+.|": one character a power of two, by its share of the largest bin.
std::string histogram_text(const WeightStatistics& statistics) {
  constexpr std::string_view kLevels = " .:-=+*#";
  constexpr std::size_t kMaxBins = 40;
  const auto& bins = statistics.scales;
  const auto used = [](std::uint64_t count) { return count > 0; };
  const auto first = std::find_if(bins.begin(), bins.end(), used);
  if (first == bins.end()) return "";
  const auto last = std::find_if(bins.rbegin(), bins.rend(), used).base();
  const std::uint64_t largest = *std::max_element(bins.begin(), bins.end());
  std::string bars;
  for (auto bin = first; bin != last && bars.size() < kMaxBins; ++bin) {
    const double level = share(*bin, largest) * static_cast<double>(kLevels.size() - 1);
    bars += kLevels[*bin > 0 ? std::max<std::size_t>(1, static_cast<std::size_t>(level)) : 0];
  }
  return fmt::format("2^{} .. 2^{} |{}|", first - bins.begin() - 127, last - bins.begin() - 128,
                     bars);
}

}  // namespace

double TensorQuality::sqnr_db() const {
  WeightStatistics power;
  power.signal = signal;
  power.noise = noise;
  return power.sqnr_db();
}

void QualityReport::add(const TensorRecord& tensor) {
  const std::string name = tensor_class(tensor.name);
  auto entry = std::find_if(classes.begin(), classes.end(), [&](const ClassReport& c) {
    return c.name == name && c.scheme == tensor.scheme;
  });
  if (entry == classes.end()) {
    entry = classes.insert(entry, ClassReport{});
    entry->name = name;
    entry->scheme = tensor.scheme;
  }
  ++entry->tensors;
  entry->source_bytes += tensor.source_bytes;
  entry->output_bytes += tensor.output_bytes;
  TensorQuality& kept = tensors.emplace_back();
  kept.name = tensor.name;
  kept.scheme = tensor.scheme;
  kept.measured = tensor.statistics.has_value();
  if (!kept.measured) return;
  const WeightStatistics& s = *tensor.statistics;
  ++entry->measured;
  entry->statistics.merge(s);
  kept.signal = s.signal;
  kept.noise = s.noise;
  kept.clipped_share = share(s.clipped, s.elements);
  kept.flushed_share = share(s.flushed, s.elements);
  kept.max_peak_error = s.max_peak_error;
}

void QualityReport::sort() {
  const auto name_of = [](const ClassReport& c) {
    return std::pair(std::string_view(c.name), std::string_view(c.scheme));
  };
  std::sort(classes.begin(), classes.end(),
            [&](const auto& a, const auto& b) { return name_of(a) < name_of(b); });
  std::sort(tensors.begin(), tensors.end(), [](const TensorQuality& a, const TensorQuality& b) {
    return std::tuple(!a.measured, a.sqnr_db(), std::string_view(a.name)) <
           std::tuple(!b.measured, b.sqnr_db(), std::string_view(b.name));
  });
  for (ClassReport& entry : classes) {
    const auto worst = std::find_if(tensors.begin(), tensors.end(), [&](const TensorQuality& t) {
      return t.measured && t.scheme == entry.scheme && tensor_class(t.name) == entry.name;
    });
    if (worst == tensors.end()) continue;
    entry.worst_tensor = worst->name;
    entry.worst_sqnr_db = worst->sqnr_db();
  }
}

std::string quality_table(const QualityReport& report, std::size_t worst) {
  const auto bytes = [](std::uint64_t count) { return bytes_text(static_cast<double>(count)); };
  std::string text =
      fmt::format("{:>6}  {:>10}  {:>10}  {:>8}  {:>8}  {:>8}  {:>8}  {}\n", "count", "bytes in",
                  "bytes out", "SQNR dB", "worst dB", "clipped", "to zero", "tensors");
  for (const ClassReport& entry : report.classes) {
    const WeightStatistics& s = entry.statistics;
    const auto cell = [&](const std::string& value) {
      return entry.measured > 0 ? value : std::string("-");
    };
    text += fmt::format("{:>6}  {:>10}  {:>10}  {:>8}  {:>8}  {:>8}  {:>8}  {} ({})\n",
                        entry.tensors, bytes(entry.source_bytes), bytes(entry.output_bytes),
                        cell(db_text(s.sqnr_db())), cell(db_text(entry.worst_sqnr_db)),
                        cell(fmt::format("{:.3f}%", 100 * share(s.clipped, s.elements))),
                        cell(fmt::format("{:.3f}%", 100 * share(s.flushed, s.elements))),
                        entry.name, entry.scheme);
  }
  for (const ClassReport& entry : report.classes) {
    if (entry.measured == 0) continue;
    text += fmt::format("scales of {}: {}\n", entry.name, histogram_text(entry.statistics));
  }
  for (std::size_t i = 0; i < std::min(worst, report.tensors.size()); ++i) {
    const TensorQuality& tensor = report.tensors[i];
    if (!tensor.measured) break;
    text += fmt::format("{}{:>6} dB  {}\n", i == 0 ? "worst tensors:\n" : "",
                        db_text(tensor.sqnr_db()), tensor.name);
  }
  return text;
}

Json quality_json(const QualityReport& report) {
  Json json;
  json["classes"] = Json::array();
  for (const ClassReport& entry : report.classes) {
    Json object = {{"class", entry.name},
                   {"scheme", entry.scheme},
                   {"tensors", entry.tensors},
                   {"measured_tensors", entry.measured},
                   {"source_bytes", entry.source_bytes},
                   {"output_bytes", entry.output_bytes}};
    if (entry.measured > 0) {
      const WeightStatistics& s = entry.statistics;
      add_quality(object, s.sqnr_db(), share(s.clipped, s.elements), share(s.flushed, s.elements),
                  s.max_peak_error);
      object["worst_tensor"] = {{"name", entry.worst_tensor},
                                {"sqnr_db", rounded(entry.worst_sqnr_db)}};
      object["scale_exponents"] = scales_json(entry.statistics);
    }
    json["classes"].push_back(std::move(object));
  }
  json["tensors"] = Json::array();  // worst first
  for (const TensorQuality& tensor : report.tensors) {
    Json object = {{"name", tensor.name}, {"scheme", tensor.scheme}};
    if (tensor.measured) {
      add_quality(object, tensor.sqnr_db(), tensor.clipped_share, tensor.flushed_share,
                  tensor.max_peak_error);
    }
    json["tensors"].push_back(std::move(object));
  }
  return json;
}

std::string quality_html(const QualityReport& report, const std::string& title) {
  std::map<std::pair<std::string, std::string>, std::size_t> class_numbers;
  for (std::size_t i = 0; i < report.classes.size(); ++i) {
    class_numbers[{report.classes[i].name, report.classes[i].scheme}] = i;
  }
  Json data = quality_json(report);
  data["title"] = title;
  // [class, layer, expert, signal, noise, clipped share, flushed share, name]
  data["tensors"] = Json::array();
  for (const TensorQuality& tensor : report.tensors) {
    if (!tensor.measured) continue;
    data["tensors"].push_back({class_numbers.at({tensor_class(tensor.name), tensor.scheme}),
                               number_behind(tensor.name, "layers"),
                               number_behind(tensor.name, "experts"), tensor.signal, tensor.noise,
                               tensor.clipped_share, tensor.flushed_share, tensor.name});
  }
  // "<" must not end the script element that holds the data.
  std::string text;
  for (const char c : data.dump()) {
    if (c == '<') {
      text += "\\u003c";
    } else {
      text += c;
    }
  }
  std::string page = kReportPage;
  constexpr std::string_view kPlaceholder = "\"QUERN_DATA\"";
  page.replace(page.find(kPlaceholder), kPlaceholder.size(), text);
  return page;
}

}  // namespace quern
