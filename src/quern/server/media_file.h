// Reads media from file: URLs below the one folder that the operator allows.
// Must never read what lies outside of it, whatever links and ".." say, nor wait on what is no
// file. Proved by tests/server/media_file_test.cc.
#pragma once

#include <cstddef>
#include <filesystem>
#include <functional>
#include <string>

namespace quern::server {

class MediaFolder {
 public:
  // "" = no file may be read. Throws Error when the path is not a directory.
  explicit MediaFolder(const std::string& allowed_local_media_path);

  // The content of the file; it blocks. `before_reading` is told the size and may throw. Throws
  // ApiError (400), which does not say what exists outside of the folder.
  std::string read(const std::string& url, std::size_t max_bytes,
                   const std::function<void(std::size_t)>& before_reading = {}) const;

 private:
  std::filesystem::path root_;  // without links; empty: none
};

}  // namespace quern::server
