// model.safetensors.index.json.
// Must never accept a file name that leads out of the checkpoint's directory, or a tensor twice.
// Proved by Fuzz.index and by running it under libFuzzer (fuzz/README.md).
#include <filesystem>
#include <set>

#include "fuzz/fuzz_target.h"
#include "quern/checkpoint/checkpoint.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  fuzz::accepts([&] {
    std::set<std::string> names;
    for (const auto& [tensor, file] :
         parse_safetensors_index(fuzz::text_of(data, size), "index").weight_map) {
      QUERN_CHECK(names.insert(tensor).second);
      const std::filesystem::path path = std::filesystem::path("/m/dir") / file;
      QUERN_CHECK(path.lexically_normal().string().starts_with("/m/dir/"));
      QUERN_CHECK(file.find('\0') == std::string::npos);
    }
  });
  return 0;
}
