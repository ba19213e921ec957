// Answers on disk as they arrive, so that an interrupted evaluation goes on where it stopped.
// Must never mix two models: the key covers the backend's identity besides the request.
// Proved by tests/eval/answer_cache_test.cc.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <optional>
#include <string>

#include "quern/base/json.h"

namespace quern {

// Thread-safe. One JSON object a line: {"key": sha256, "answer": text or null}. Lines are appended
// whole, so several runs may share a file; a torn last line (a killed run) is dropped.
class AnswerCache {
 public:
  AnswerCache(const std::filesystem::path& file, const Json& identity);
  AnswerCache(const AnswerCache&) = delete;
  AnswerCache& operator=(const AnswerCache&) = delete;
  ~AnswerCache();

  std::string key(const Json& request) const;
  // Outer empty: not there. Inner empty: the model gave a null answer.
  std::optional<std::optional<std::string>> find(const std::string& key) const;
  // Throws Error when the line cannot be written.
  void store(const std::string& key, const std::optional<std::string>& answer);

 private:
  void load();

  std::filesystem::path file_;
  std::string identity_;
  int fd_ = -1;
  mutable std::mutex mutex_;
  std::map<std::string, std::optional<std::string>> answers_;
};

}  // namespace quern
