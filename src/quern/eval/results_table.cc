// See results_table.h. Source: lm-evaluation-harness lm_eval/utils.py (make_table).
#include "quern/eval/results_table.h"

#include <fmt/format.h>

#include <map>

#include "quern/eval/markdown.h"
#include "quern/eval/python_text.h"

namespace quern {

std::string results_table(const Json& results) {
  constexpr std::size_t kVersionColumn = 1;
  std::map<std::string, const Json*> tasks;
  for (const auto& [name, values] : results.at("results").items()) tasks[name] = &values;
  const auto lookup = [&](const char* part, const std::string& task) -> Json {
    return results.contains(part) && results[part].contains(task) ? results[part][task]
                                                                  : Json(nullptr);
  };
  const auto text_of = [](const Json& value) {
    return value.is_null()     ? std::string()
           : value.is_string() ? value.get<std::string>()
                               : python_repr(value);
  };
  std::vector<std::vector<std::string>> rows;
  for (const auto& [name, values] : tasks) {
    std::string task = values->contains("alias") ? text_of((*values)["alias"]) : name;
    std::string version = text_of(lookup("versions", name));
    const Json higher = lookup("higher_is_better", name);
    const std::map<std::string, Json> metrics(values->get<std::map<std::string, Json>>());
    for (const auto& [key, value] : metrics) {
      const std::size_t comma = key.find(',');
      const std::string metric = key.substr(0, comma);
      if (comma == std::string::npos || metric.ends_with("_stderr") || !value.is_number()) continue;
      const std::string filter = key.substr(comma + 1);
      const auto error = metrics.find(metric + "_stderr," + filter);
      const Json direction = higher.is_object() ? higher.value(metric, Json()) : Json();
      rows.push_back(
          {task, version, filter, text_of(lookup("n-shot", name)), metric,
           direction.is_boolean() ? (direction.get<bool>() ? "↑" : "↓") : "",
           value.is_number_float() ? fmt::format("{:.4f}", value.get<double>()) : value.dump(),
           error == metrics.end() ? "" : "±",
           error == metrics.end()       ? ""
           : !error->second.is_number() ? "   N/A"
                                        : fmt::format("{:.4f}", error->second.get<double>())});
      task.clear();
      version.clear();
    }
  }
  return markdown_table(
      {"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"}, rows,
      {kVersionColumn});
}

}  // namespace quern
