// See results_table.h. Rules observed on lm-evaluation-harness lm_eval/utils.py (make_table) with
// pytablewriter 1.2.1; tests/golden/eval/make_tables.py made the cases.
#include "quern/eval/results_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <map>

#include "quern/eval/python_text.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

struct Column {
  bool numeric = true;  // every cell that is not empty is a number
  std::size_t decimals = 0;
  std::size_t width = 3;  // "---"
};

// Plain decimals only: a sign, digits, perhaps a point and digits.
bool is_number(const std::string& cell) {
  const std::size_t first = cell.starts_with('-') ? 1 : 0;
  const std::size_t point = cell.find('.');
  const auto digits = [&](std::size_t begin, std::size_t end) {
    return begin < end && std::all_of(cell.begin() + static_cast<std::ptrdiff_t>(begin),
                                      cell.begin() + static_cast<std::ptrdiff_t>(end),
                                      [](char c) { return c >= '0' && c <= '9'; });
  };
  if (point == std::string::npos) return digits(first, cell.size());
  return digits(first, point) && digits(point + 1, cell.size());
}

// The number without trailing zeros behind the point.
std::string trimmed(std::string cell) {
  if (cell.find('.') == std::string::npos) return cell;
  cell.erase(cell.find_last_not_of('0') + 1);
  if (cell.ends_with('.')) cell.pop_back();
  return cell;
}

std::size_t decimals_of(const std::string& number) {
  const std::size_t point = number.find('.');
  return point == std::string::npos ? 0 : number.size() - point - 1;
}

std::string with_decimals(std::string number, std::size_t decimals) {
  const std::size_t have = decimals_of(number);
  if (have < decimals && have == 0) number += '.';
  number.append(decimals - have, '0');
  return number;
}

std::string pad(const std::string& text, std::size_t width, char side) {
  const std::size_t missing = width - std::min(width, count_utf8(text));
  const std::size_t left = side == 'l' ? 0 : side == 'r' ? missing : missing / 2;
  return std::string(left, ' ') + text + std::string(missing - left, ' ');
}

}  // namespace

std::string markdown_table(const std::vector<std::string>& headers,
                           const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::vector<std::string>> cells = rows;
  std::vector<Column> columns(headers.size());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    Column& column = columns[c];
    bool any = false;
    for (auto& row : cells) {
      if (row[c].empty()) continue;
      any = true;
      if (is_number(row[c])) {
        row[c] = trimmed(row[c]);
        column.decimals = std::max(column.decimals, decimals_of(row[c]));
      } else {
        column.numeric = false;
      }
    }
    column.numeric = column.numeric && any;
    column.width = std::max(column.width, count_utf8(headers[c]));
    for (auto& row : cells) {
      if (is_number(row[c])) row[c] = with_decimals(row[c], column.decimals);
      column.width = std::max(column.width, count_utf8(row[c]));
    }
  }
  std::string out = "|";
  for (std::size_t c = 0; c < columns.size(); ++c)
    out += pad(headers[c], columns[c].width, 'c') + "|";
  out += "\n|";
  for (const Column& column : columns) {
    out += std::string(column.width - 1, '-') + (column.numeric ? ":|" : "-|");
  }
  for (const auto& row : cells) {
    out += "\n|";
    for (std::size_t c = 0; c < columns.size(); ++c) {
      out += pad(row[c], columns[c].width, is_number(row[c]) ? 'r' : 'l') + "|";
    }
  }
  return out + "\n";
}

std::string results_table(const Json& results) {
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
      {"Tasks", "Version", "Filter", "n-shot", "Metric", "", "Value", "", "Stderr"}, rows);
}

}  // namespace quern
