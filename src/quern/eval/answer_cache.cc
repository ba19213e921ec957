// See answer_cache.h.
#include "quern/eval/answer_cache.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/python_text.h"
#include "quern/eval/sha256.h"

namespace quern {

AnswerCache::AnswerCache(const std::filesystem::path& file, const Json& identity)
    : file_(file), identity_(python_json(identity)) {
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path());
  fd_ = ::open(file.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd_ < 0) throw_errno(fmt::format("cannot open the answer cache '{}'", file.string()));
  try {
    load();
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

AnswerCache::~AnswerCache() { ::close(fd_); }

void AnswerCache::load() {
  const MappedFile mapped(file_);
  const std::string_view text(reinterpret_cast<const char*>(mapped.data().data()),
                              mapped.data().size());
  std::size_t line_number = 0;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    ++line_number;
    if (end == std::string_view::npos) {
      spdlog::warn("{}: the last line is incomplete and is ignored", file_.string());
      // What is appended next must start a line of its own.
      if (::write(fd_, "\n", 1) != 1) throw_errno(fmt::format("cannot write '{}'", file_.string()));
      return;
    }
    const std::string_view line = text.substr(begin, end - begin);
    begin = end + 1;
    const std::string where = fmt::format("{}:{}", file_.string(), line_number);
    try {
      const Json entry = parse_json(line, where);
      const Json& answer = entry.at("answer");
      answers_[entry.at("key").get<std::string>()] =
          answer.is_null() ? std::nullopt : std::optional(answer.get<std::string>());
    } catch (const std::exception& error) {
      spdlog::warn("{}: not an answer, ignored ({})", where, error.what());
    }
  }
}

std::string AnswerCache::key(const Json& request) const {
  return sha256_hex(identity_ + "\n" + python_json(request));
}

std::optional<std::optional<std::string>> AnswerCache::find(const std::string& key) const {
  const std::lock_guard lock(mutex_);
  const auto found = answers_.find(key);
  if (found == answers_.end()) return std::nullopt;
  return found->second;
}

void AnswerCache::store(const std::string& key, const std::optional<std::string>& answer) {
  Json entry{{"key", key}, {"answer", nullptr}};
  if (answer) entry["answer"] = *answer;
  const std::string line = python_json(entry) + "\n";
  const std::lock_guard lock(mutex_);
  // One write with O_APPEND: lines of concurrent runs do not interleave.
  const ssize_t put = ::write(fd_, line.data(), line.size());
  if (put < 0) throw_errno(fmt::format("cannot write the answer cache '{}'", file_.string()));
  if (static_cast<std::size_t>(put) != line.size())
    throw Error("the answer cache '{}' is full", file_.string());
  answers_[key] = answer;
}

}  // namespace quern
