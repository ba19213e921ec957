// The pictures of tests/golden/vision/pictures.safetensors (tools/vision_golden.py).
// Must never decode anything itself.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "quern/checkpoint/safetensors.h"
#include "quern/vision/image.h"

namespace quern::test {

class GoldenPictures {
 public:
  GoldenPictures()
      : file_(std::filesystem::path(QUERN_SOURCE_DIR) /
              "tests/golden/vision/pictures.safetensors") {}

  std::vector<std::string> names() const {
    constexpr std::string_view kSuffix = ".file";
    std::vector<std::string> names;
    for (const TensorInfo& info : file_.header().tensors) {
      if (info.name.ends_with(kSuffix))
        names.push_back(info.name.substr(0, info.name.size() - kSuffix.size()));
    }
    return names;
  }
  std::span<const std::byte> file(const std::string& name) const {
    return view(name + ".file").raw();
  }
  bool has(const std::string& name) const { return file_.find(name) != nullptr; }
  // NAME.decoded, NAME.white or NAME.resized.
  vision::RgbImage image(const std::string& name) const {
    const TensorView v = view(name);
    return {{v.shape.at(1), v.shape.at(0)},
            {v.as<std::uint8_t>(), v.as<std::uint8_t>() + v.size()}};
  }

 private:
  TensorView view(const std::string& name) const {
    const TensorInfo* info = file_.find(name);
    QUERN_CHECK(info != nullptr, "no golden tensor '{}'", name);
    return file_.view(*info);
  }
  SafetensorsFile file_;
};

}  // namespace quern::test
