// Answers tools/vision_compare_with_peers.py: patches and features of picture files.
//
//   vision_peer_driver DIR pixels|f32|cpu|vectors THREADS FILE...
//
// For each FILE a line "t h w tokens milliseconds" or "error TEXT"; FILE.pixels holds the patches,
// FILE.features the features, float32. Must never be installed: it exists for comparisons.
#include <chrono>
#include <cstring>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "quern/base/file.h"
#include "quern/kernels/factory.h"
#include "quern/model/vision_tower.h"
#include "quern/vision/preprocess.h"

namespace {

void write_floats(const std::string& path, const std::vector<float>& values) {
  std::ofstream(path, std::ios::binary)
      .write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(float)));
}

}  // namespace

int main(int argc, char** argv) {
  using namespace quern;
  if (argc < 5) return 2;
  const std::string directory = argv[1], mode = argv[2];
  const auto config = vision::make_preprocess_config(read_preprocessor_config(directory));
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<kernels::Backend> backend;
  std::unique_ptr<model::VisionTower> tower;
  if (mode != "pixels") {
    checkpoint = std::make_unique<Checkpoint>(Checkpoint::open(directory));
    kernels::CpuOptions options;
    options.num_threads = std::stoi(argv[3]);
    if (mode == "vectors") options.tile_unit = kernels::TileUnit::kVectors;
    backend = mode == "f32" ? kernels::make_reference_backend(kernels::Rounding::kNone)
                            : kernels::make_cpu_backend(options);
    tower = std::make_unique<model::VisionTower>(
        *checkpoint, parse_model_config(checkpoint->config()), *backend, model::VisionLimits{});
  }
  for (int i = 4; i < argc; ++i) {
    try {
      const std::string file = read_file(argv[i], std::size_t{1} << 30);
      const auto patches = vision::preprocess_image(std::as_bytes(std::span(file)), config, {});
      write_floats(argv[i] + std::string(".pixels"), patches.pixels);
      double milliseconds = 0;
      if (tower != nullptr) {
        std::vector<float> features(static_cast<std::size_t>(patches.num_tokens) *
                                    static_cast<std::size_t>(tower->hidden_size()));
        const vision::ImagePatches* one = &patches;
        const auto start = std::chrono::steady_clock::now();
        tower->encode({&one, 1}, features);
        milliseconds =
            std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
                .count();
        write_floats(argv[i] + std::string(".features"), features);
      }
      std::cout << patches.grid_t << " " << patches.grid_h << " " << patches.grid_w << " "
                << patches.num_tokens << " " << milliseconds << std::endl;
    } catch (const Error& error) {
      std::cout << "error " << error.what() << std::endl;
    }
  }
}
