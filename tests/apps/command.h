// Runs commands of a shell for tests of the program.
#pragma once

#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace quern::cli {

struct CommandResult {
  int status = -1;
  std::string output;  // stdout and stderr
};

// `command` sees the program as $QUERN and the repository as $ROOT.
inline CommandResult shell(const std::string& command) {
  const std::string whole =
      "exec 2>&1; QUERN='" QUERN_BINARY "'; ROOT='" QUERN_SOURCE_DIR "'; " + command;
  CommandResult result;
  std::FILE* pipe = ::popen(whole.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  while (const std::size_t got = std::fread(buffer.data(), 1, buffer.size(), pipe)) {
    result.output.append(buffer.data(), got);
  }
  const int status = ::pclose(pipe);
  result.status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return result;
}

}  // namespace quern::cli
