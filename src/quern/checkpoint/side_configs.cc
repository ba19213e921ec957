// generation_config.json, preprocessor_config.json and the reading of all three files; see
// model_config.h.
#include <utility>

#include "quern/base/file.h"
#include "quern/checkpoint/config_reader.h"
#include "quern/checkpoint/config_sections.h"
#include "quern/checkpoint/model_config.h"

namespace quern {
namespace {

constexpr std::size_t kMaxConfigBytes = 16U << 20U;

// An empty object when the file does not exist.
Json read_optional_json(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return Json::object();
  return parse_json(read_file(path, kMaxConfigBytes), path.string());
}

void read_triple(const ConfigReader& reader, std::string_view key, double low,
                 std::array<double, 3>& field) {
  const Json* value = reader.value(key);
  if (value == nullptr) return;
  const bool right = value->is_array() && value->size() == field.size();
  for (std::size_t i = 0; i < field.size(); ++i) {
    const double number = right && (*value)[i].is_number() ? (*value)[i].get<double>() : -1.0;
    if (!(number >= low && number <= 1e6)) {
      reader.fail(key, fmt::format("expected a list of three numbers of {} to 1e6", low));
    }
    field[i] = number;
  }
}

// [h, w], {"height": h, "width": w} or {"shortest_edge": n}.
void read_size(const ConfigReader& reader, PreprocessorConfig& config) {
  const Json* value = reader.value("size");
  if (value == nullptr) return;
  if (value->is_array()) {
    std::vector<std::int64_t> sides;
    reader.read("size", sides, 1, ConfigReader::kMaxInteger);
    if (sides.size() != 2)
      reader.fail("size", fmt::format("expected 2 numbers, found {}", sides.size()));
    config.size = {sides[0], sides[1]};
    return;
  }
  const ConfigReader size = reader.required_object("size");
  if (size.has("shortest_edge")) {
    std::int64_t edge = 0;
    size.require("shortest_edge", edge);
    config.size = {edge, edge};
    return;
  }
  std::array<std::int64_t, 2> sides{};
  size.require("height", sides[0]);
  size.require("width", sides[1]);
  config.size = sides;
}

}  // namespace

GenerationConfig parse_generation_config(const Json& json) {
  const ConfigReader reader(json, "generation_config.json");
  constexpr std::int64_t kLastToken = ConfigReader::kMaxInteger;
  GenerationConfig config;
  reader.read("do_sample", config.do_sample);
  reader.read("temperature", config.temperature, 0.0, 1e6);
  reader.read("top_p", config.top_p, 0.0, 1.0);
  reader.read("top_k", config.top_k, std::int64_t{-1}, ConfigReader::kMaxInteger);
  reader.read("min_p", config.min_p, 0.0, 1.0);
  reader.read("repetition_penalty", config.repetition_penalty, 1e-6, 1e6);
  reader.read("max_new_tokens", config.max_new_tokens);
  reader.read("bos_token_id", config.bos_token_id, std::int64_t{0}, kLastToken);
  reader.read_one_or_more("eos_token_id", config.eos_token_id, 0, kLastToken);
  reader.read("pad_token_id", config.pad_token_id, std::int64_t{0}, kLastToken);
  return config;
}

PreprocessorConfig parse_preprocessor_config(const Json& json) {
  const ConfigReader reader(json, "preprocessor_config.json");
  PreprocessorConfig config;
  reader.read("processor_class", config.processor_class);
  reader.read("image_processor_type", config.image_processor_type);
  reader.read("process_image_mode", config.process_image_mode);
  read_triple(reader, "image_mean", 0.0, config.image_mean);
  read_triple(reader, "image_std", 1e-6, config.image_std);
  reader.read("rescale_factor", config.rescale_factor, 1e-9, 1e9);
  reader.read("do_resize", config.do_resize);
  reader.read("do_rescale", config.do_rescale);
  reader.read("do_normalize", config.do_normalize);
  reader.read("do_convert_rgb", config.do_convert_rgb);
  reader.read("resample", config.resample, 0, 5);
  read_size(reader, config);
  reader.read("patch_size", config.patch_size, 1, 4096);
  config.img_token_compression_config = read_token_compression(reader, {});
  config.temporal_patch_size = config.img_token_compression_config.temporal_patch_size;
  config.merge_size = config.img_token_compression_config.spatial_merge_size;
  reader.read("temporal_patch_size", config.temporal_patch_size, 1, 64);
  reader.read("merge_size", config.merge_size, 1, 64);
  reader.read("min_pixels", config.min_pixels);
  reader.read("max_pixels", config.max_pixels);
  if (config.min_pixels > config.max_pixels) {
    reader.fail("min_pixels",
                fmt::format("{} is more than max_pixels {}", config.min_pixels, config.max_pixels));
  }
  reader.read("add_start_end_special_tokens", config.add_start_end_special_tokens);
  return config;
}

ModelConfig read_model_config(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "config.json";
  const Json json = parse_json(read_file(path, kMaxConfigBytes), path.string());
  return with_context(directory.string(), [&] { return parse_model_config(json); });
}

GenerationConfig read_generation_config(const std::filesystem::path& directory) {
  const Json json = read_optional_json(directory / "generation_config.json");
  return with_context(directory.string(), [&] { return parse_generation_config(json); });
}

PreprocessorConfig read_preprocessor_config(const std::filesystem::path& directory) {
  const Json json = read_optional_json(directory / "preprocessor_config.json");
  return with_context(directory.string(), [&] { return parse_preprocessor_config(json); });
}

}  // namespace quern
