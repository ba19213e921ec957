// See markdown.h. Table rules observed on pytablewriter 1.2.1, which lm-evaluation-harness prints
// its tables with; tests/golden/eval/make_tables.py makes random cases.
#include "quern/eval/markdown.h"

#include <fmt/format.h>

#include <algorithm>

#include "quern/text/utf8.h"

namespace quern {
namespace {

struct Column {
  bool numeric = false;             // every cell that is not empty is a number, and there is one
  bool begins_with_number = false;  // the first of them is
  std::size_t decimals = 0;         // that the numbers need
  std::size_t width = 3;            // "---"
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

Column column_of(const std::vector<std::vector<std::string>>& rows, std::size_t c) {
  Column column;
  bool any = false;
  bool text = false;
  for (const auto& row : rows) {
    if (row[c].empty()) continue;
    const bool number = is_number(row[c]);
    if (!any) column.begins_with_number = number;
    any = true;
    text = text || !number;
    if (number) column.decimals = std::max(column.decimals, decimals_of(trimmed(row[c])));
  }
  column.numeric = any && !text;
  return column;
}

// All numbers of a column with as many decimals, except: a column with text in it that begins with
// a number shows whole ones as such, one that begins with text shows all as text.
std::string printed(const std::string& cell, const Column& column) {
  if (!is_number(cell) || !column.begins_with_number) return cell;
  const std::string number = trimmed(cell);
  const bool whole = decimals_of(number) == 0;
  return whole && !column.numeric ? number : with_decimals(number, column.decimals);
}

std::string pad(const std::string& text, std::size_t width, char side) {
  const std::size_t missing = width - std::min(width, count_utf8(text));
  const std::size_t left = side == 'l' ? 0 : side == 'r' ? missing : missing / 2;
  return std::string(left, ' ') + text + std::string(missing - left, ' ');
}

}  // namespace

std::string percent(double share) { return fmt::format("{:.2f}", 100 * share); }

std::string markdown_table(const std::vector<std::string>& headers,
                           const std::vector<std::vector<std::string>>& rows,
                           const std::set<std::size_t>& number_columns) {
  std::vector<std::vector<std::string>> cells = rows;
  std::vector<Column> columns(headers.size());
  for (std::size_t c = 0; c < columns.size(); ++c) {
    columns[c] = column_of(cells, c);
    columns[c].begins_with_number = columns[c].begins_with_number || number_columns.contains(c);
    columns[c].width = std::max(columns[c].width, count_utf8(headers[c]));
    for (auto& row : cells) {
      row[c] = printed(row[c], columns[c]);
      columns[c].width = std::max(columns[c].width, count_utf8(row[c]));
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
      const bool right = columns[c].begins_with_number && is_number(row[c]);
      out += pad(row[c], columns[c].width, right ? 'r' : 'l') + "|";
    }
  }
  return out + "\n";
}

std::string markdown_fence(const std::string& text, const std::string& language) {
  std::size_t longest = 2;
  std::size_t run = 0;
  for (const char c : text) {
    run = c == '`' ? run + 1 : 0;
    longest = std::max(longest, run);
  }
  const std::string fence(longest + 1, '`');
  return fence + language + "\n" + text + "\n" + fence + "\n";
}

}  // namespace quern
