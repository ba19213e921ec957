// Feeds a fuzz target every file of the folders given, in the order of their names: how the corpus
// is tested where there is no libFuzzer. Must never pass over a folder that is missing or empty.
// Run by the Fuzz.* tests.
#include <fmt/core.h>

#include <algorithm>
#include <filesystem>
#include <vector>

#include "fuzz/fuzz_target.h"
#include "quern/base/file.h"

int main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  try {
    for (int i = 1; i < argc; ++i) {
      const std::size_t before = files.size();
      for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
        files.push_back(entry.path());
      }
      if (files.size() == before) throw quern::Error("'{}' is empty", argv[i]);
    }
    std::sort(files.begin(), files.end());
    for (const auto& file : files) {
      fmt::print("{}\n", file.string());
      std::fflush(stdout);  // the last line names the file that aborts
      const std::string text = quern::read_file(file, 1u << 20);
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(text.data()), text.size());
    }
  } catch (const std::exception& error) {
    fmt::print(stderr, "{}\n", error.what());
    return 1;
  }
  return files.empty() ? 1 : 0;
}
