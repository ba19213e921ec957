// See dataset.h.
#include "quern/eval/dataset.h"

#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern {
namespace {

constexpr std::size_t kMaxLineBytes = 16 << 20;

std::vector<std::filesystem::path> candidates(const EvalTask& task, const std::string& split,
                                              const std::filesystem::path& data_dir) {
  std::filesystem::path relative;
  std::vector<std::filesystem::path> found;
  if (task.dataset_path == "json") {
    if (!task.data_files.is_object() || !task.data_files.contains(split) ||
        !task.data_files[split].is_string()) {
      throw Error("{}: dataset_kwargs.data_files names no file for split '{}'", task.file.string(),
                  split);
    }
    relative = task.data_files[split].get<std::string>();
    found.push_back(relative);
    if (relative.is_absolute()) return found;
  } else {
    relative = std::filesystem::path(task.dataset_path).filename() / (split + ".jsonl");
  }
  if (!data_dir.empty()) found.push_back(data_dir / relative);
  found.push_back("data" / relative);
  found.push_back(std::filesystem::path(QUERN_DATA_DIR) / relative);
  return found;
}

}  // namespace

std::vector<Json> read_jsonl(const std::filesystem::path& file) {
  const MappedFile mapped(file);
  const std::string_view text(reinterpret_cast<const char*>(mapped.data().data()),
                              mapped.data().size());
  std::vector<Json> rows;
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = std::min(text.find('\n', begin), text.size());
    std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    ++line_number;
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty()) continue;
    const std::string where = fmt::format("{}:{}", file.string(), line_number);
    if (line.size() > kMaxLineBytes) throw Error("{}: line of {} bytes", where, line.size());
    Json row = parse_json(line, where);
    if (!row.is_object())
      throw Error("{}: expected a JSON object, found {}", where, row.type_name());
    rows.push_back(std::move(row));
  }
  return rows;
}

std::filesystem::path find_split(const EvalTask& task, const std::string& split,
                                 const std::filesystem::path& data_dir) {
  std::string tried;
  for (const auto& path : candidates(task, split, data_dir)) {
    if (std::filesystem::is_regular_file(path)) return path;
    tried += (tried.empty() ? "" : ", ") + path.string();
  }
  throw Error("task '{}': no data for split '{}' (looked for {}); give --data_dir", task.name,
              split, tried);
}

}  // namespace quern
