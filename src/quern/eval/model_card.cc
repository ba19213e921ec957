// See model_card.h. Form: the cards of huggingface.co/amd for MXFP4 checkpoints; metadata keys:
// huggingface.co/docs/hub/model-cards.
#include "quern/eval/model_card.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <optional>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/base/log.h"
#include "quern/checkpoint/checkpoint.h"
#include "quern/checkpoint/inspect.h"
#include "quern/checkpoint/model_config.h"
#include "quern/eval/compare.h"
#include "quern/eval/markdown.h"
#include "quern/eval/yaml_json.h"
#include "quern/quantize/manifest.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTextBytes = 16 << 20;

// Names and patterns come from files: as inline code they cannot become markup, whatever they hold.
std::string code(std::string text) {
  std::replace_if(
      text.begin(), text.end(),
      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == '`' || c == '|'; }, '_');
  return "`" + text + "`";
}

// A shell word of a command line.
std::string word(const std::string& text) {
  const bool plain = !text.empty() && std::all_of(text.begin(), text.end(), [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 ||
           std::string_view("_-./:=,+@").find(c) != std::string_view::npos;
  });
  if (plain) return text;
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string shell_block(const std::string& command) { return markdown_fence(command, "sh"); }

std::string name_of(const std::filesystem::path& directory) {
  return std::filesystem::absolute(directory / "").parent_path().filename().string();
}

Json read_json(const std::filesystem::path& file) {
  return parse_json(read_file(file, kMaxTextBytes), file.string());
}

// The metadata header of the base's README.md; an empty object when there is none.
Json base_metadata(const std::filesystem::path& base) {
  const std::filesystem::path file = base / "README.md";
  if (!std::filesystem::is_regular_file(file)) return Json::object();
  const std::string text = read_file(file, kMaxTextBytes);
  if (!text.starts_with("---\n")) return Json::object();
  const std::size_t end = text.find("\n---", 3);
  if (end == std::string::npos) return Json::object();
  Json metadata = parse_yaml(text.substr(4, end - 3), file.string());
  return metadata.is_object() ? metadata : Json::object();
}

struct Sources {
  explicit Sources(const CardSources& from)
      : quantized(Checkpoint::open(from.quantized)),
        base(Checkpoint::open(from.base)),
        config(parse_model_config(quantized.config())),
        quantized_name(name_of(from.quantized)),
        base_name(name_of(from.base)) {
    if (!config.quantization_config || !quantized.config().contains("quantization_config"))
      throw Error("{}: config.json has no quantization_config", from.quantized.string());
  }
  const Json& quantization() const { return quantized.config()["quantization_config"]; }

  Checkpoint quantized;
  Checkpoint base;
  ModelConfig config;
  std::string quantized_name;
  std::string base_name;
};

std::string architecture(const Json& config) {
  const Json list = config.value("architectures", Json());
  return list.is_array() && !list.empty() && list[0].is_string() ? list[0].get<std::string>() : "";
}

bool has_vision(const Sources& sources) {
  return sources.base.config().contains("vision_config") &&
         std::any_of(sources.quantized.tensors().begin(), sources.quantized.tensors().end(),
                     [](const auto& tensor) { return tensor.name.starts_with("vision_tower."); });
}

// JSON text is YAML.
std::string metadata_header(const Sources& sources, const CardSources& from) {
  std::string out = "---\n";
  const auto line = [&](const std::string& key, const Json& value) {
    out += fmt::format("{}: {}\n", key, value.dump());
  };
  const Json kept = base_metadata(from.base);
  for (const char* key : {"license", "license_name", "license_link"}) {
    if (kept.contains(key) && !kept[key].is_null()) line(key, kept[key]);
  }
  if (!kept.contains("license")) {
    spdlog::warn("{}: README.md names no license; the card names none", from.base.string());
  }
  line("base_model", sources.base_name);
  line("base_model_relation", "quantized");
  line("pipeline_tag", has_vision(sources) ? "image-text-to-text" : "text-generation");
  Json tags = Json::array({"quantized"});
  const Json method = sources.quantization().value("quant_method", Json());
  if (method.is_string()) tags.push_back(method);
  for (const auto& tensor : sources.quantized.tensors()) {
    if (tensor.name.ends_with(".weight_scale")) {
      tags.push_back("mxfp4");
      break;
    }
  }
  const Json type = sources.quantized.config().value("model_type", Json());
  if (type.is_string()) tags.push_back(type);
  line("tags", tags);
  return out + "---\n";
}

// "OCP MXFP4, static" from Quark's description of weight or input_tensors.
std::string scheme_text(const Json& spec) {
  if (!spec.is_object()) return "none";
  const auto text = [&](const char* key) {
    const Json value = spec.value(key, Json());
    return value.is_string() ? value.get<std::string>() : std::string();
  };
  const bool is_mxfp4 = text("dtype") == "fp4" && text("scale_format") == "e8m0" &&
                        spec.value("group_size", Json()) == 32;
  return fmt::format("{}, {}", is_mxfp4 ? "OCP MXFP4" : code(text("dtype")),
                     spec.value("is_dynamic", Json()) == true ? "dynamic" : "static");
}

std::string overview(const Sources& sources) {
  const Json global = sources.quantization().value("global_quant_config", Json());
  const auto spec = [&](const char* key) {
    return scheme_text(global.is_object() ? global.value(key, Json()) : Json());
  };
  std::string out = "# Model overview\n\n";
  out +=
      fmt::format("- **Model architecture:** {}\n", code(architecture(sources.quantized.config())));
  out += fmt::format("  - **Input:** {}\n  - **Output:** Text\n",
                     has_vision(sources) ? "Text, Image" : "Text");
  out += fmt::format("- **Base model:** {}\n", code(sources.base_name));
  out += fmt::format("- **Weight quantization:** {}\n", spec("weight"));
  out += fmt::format("- **Activation quantization:** {}\n", spec("input_tensors"));
  const Json version = sources.quantization().value("version", Json());
  if (version.is_string())
    out += fmt::format("- **Quantized with:** {}\n", code(version.get<std::string>()));
  const Tally before = inspect(sources.base).total();
  const Tally after = inspect(sources.quantized).total();
  out += fmt::format(
      "- **Parameters:** {}\n- **Size of the tensors:** {} bytes, {:.1f} % of the base's {}\n",
      after.parameters, after.bytes,
      100 * static_cast<double>(after.bytes) / static_cast<double>(before.bytes), before.bytes);
  return out + "\n";
}

// Which parts of the model are quantized, counted in its tensors.
std::string parts(const Sources& sources) {
  std::map<std::string_view, std::pair<std::size_t, std::size_t>> counts;  // quantized, all
  for (const auto& tensor : sources.quantized.tensors()) {
    if (!tensor.name.ends_with(".weight")) continue;
    auto& [quantized, all] = counts[part_name(part_of(tensor.name))];
    ++all;
    const std::string scale = std::string(tensor.name) + "_scale";
    quantized += sources.quantized.find(scale) != nullptr ? 1 : 0;
  }
  std::vector<std::vector<std::string>> rows;
  for (const auto& [part, count] : counts) {
    rows.push_back({std::string(part), std::to_string(count.first), std::to_string(count.second)});
  }
  return markdown_table({"Part", "Quantized weights", "Weights"}, rows) + "\n";
}

std::string quantization(const Sources& sources, const CardSources& from) {
  std::string out = "# Model quantization\n\n" + parts(sources);
  const std::filesystem::path file = from.quantized / Manifest::kDirectory / "job.json";
  if (!std::filesystem::is_regular_file(file)) return out;  // not quantized by this program
  const Json job = read_json(file);
  const Json scheme = job.is_object() ? job.value("quant_scheme", Json()) : Json();
  if (!scheme.is_string()) throw Error("{}: no 'quant_scheme'", file.string());
  std::string command =
      fmt::format("quern quantize --model_dir {} --output_dir {} --quant_scheme {}",
                  word(sources.base_name), word(sources.quantized_name), word(scheme));
  const Json used = job.value("template", Json());
  if (used.is_string() && !used.get<std::string>().empty())
    command += " --template " + word(used.get<std::string>());
  const Json excluded = job.value("exclude_layers", Json());
  if (excluded.is_array()) {
    command += " --exclude_layers";
    for (const Json& pattern : excluded) {
      if (pattern.is_string()) command += " " + word(pattern.get<std::string>());
    }
  }
  return out + shell_block(command) + "\n";
}

// The figures of a divergence run stand in one results file, both models in it.
std::string fidelity(const std::vector<EvaluationRun>& runs) {
  std::vector<std::vector<std::string>> rows;
  for (const EvaluationRun& run : runs) {
    for (const RunScore& score : run.scores) {
      if (score.task != "divergence") continue;
      rows.push_back(
          {score.metric, fmt::format("{:.6g}", score.mean.value),
           score.mean.stderr_of_mean ? fmt::format("{:.2g}", *score.mean.stderr_of_mean) : ""});
    }
  }
  if (rows.empty()) return "";
  return "## Predictions against the base model\n\n" +
         markdown_table({"Figure", "Value", "Standard error"}, rows) + "\n";
}

std::string evaluation_table(const std::vector<EvaluationRun>& base,
                             const std::vector<EvaluationRun>& quantized, const Sources& sources) {
  std::vector<std::vector<std::string>> rows;
  for (const EvaluationRun& run : quantized) {
    for (const EvaluationRun& other : base) {
      const bool common = std::any_of(run.scores.begin(), run.scores.end(), [&](const auto& a) {
        return a.task != "divergence" &&
               std::any_of(other.scores.begin(), other.scores.end(),
                           [&](const auto& b) { return a.task == b.task; });
      });
      if (!common) continue;
      for (const ComparedScore& score : compare_runs(other, run).scores) {
        if (score.task == "divergence") continue;
        const auto& interval = score.interval;
        rows.push_back(
            {code(score.task), score.metric + ", " + score.filter, percent(score.base.value),
             percent(score.quantized.value), score.recovery ? percent(*score.recovery) : "",
             interval ? fmt::format("{} to {}", percent(interval->low), percent(interval->high))
                      : "",
             score.paired ? std::to_string(score.questions.size()) : ""});
      }
    }
  }
  if (rows.empty()) return "";
  for (auto& row : rows) {
    for (std::string& cell : row) std::replace(cell.begin(), cell.end(), '|', '_');
  }
  return markdown_table(
             {"Benchmark", "Metric", sources.base_name + " %", sources.quantized_name + " %",
              "Recovery %", "95 % interval", "Paired questions"},
             rows) +
         "\n";
}

// The command that made a results file, from its "config".
std::string evaluation_command(const EvaluationRun& run) {
  const Json config = run.results.value("config", Json());
  if (!config.is_object() || !config.contains("model")) return "";
  std::string command = "quern eval --model " +
                        word(config["model"].dump() == "null" ? "" : config.value("model", ""));
  const Json arguments = config.value("model_args", Json());
  if (arguments.is_object()) command += " --model_args " + word(arguments.dump());
  std::string tasks;
  for (const auto& [task, values] : run.results["results"].items())
    tasks += (tasks.empty() ? "" : ",") + task;
  command += " --tasks " + word(tasks);
  for (const char* key : {"reference", "data"}) {
    const Json value = config.value(key, Json());
    if (value.is_string()) command += fmt::format(" --{} {}", key, word(value.get<std::string>()));
  }
  const Json shots = run.results.value("n-shot", Json());
  if (shots.is_object() && !shots.empty() && !config.contains("reference")) {
    command += " --num_fewshot " + shots.begin()->dump();
  }
  if (config.contains("limit") && config["limit"].is_number())
    command += fmt::format(" --limit {}", config["limit"].get<double>());
  if (run.results.value("chat_template", Json()).is_string()) command += " --apply_chat_template";
  if (run.results.value("fewshot_as_multiturn", Json()) == true)
    command += " --fewshot_as_multiturn";
  return command;
}

std::string evaluation(const Sources& sources, const CardSources& from) {
  const auto read_all = [](const std::vector<std::filesystem::path>& files) {
    std::vector<EvaluationRun> runs;
    for (const auto& file : files) runs.push_back(read_run(file));
    return runs;
  };
  const std::vector<EvaluationRun> quantized = read_all(from.results);
  const std::vector<EvaluationRun> base = read_all(from.base_results);
  if (quantized.empty()) return "";
  std::string commands;
  for (const EvaluationRun& run : quantized) {
    const std::string command = evaluation_command(run);
    if (!command.empty()) commands += (commands.empty() ? "" : "\n") + command;
  }
  std::string out =
      "# Evaluation\n\n" + evaluation_table(base, quantized, sources) + fidelity(quantized);
  if (!commands.empty()) out += "## Reproduction\n\n" + shell_block(commands) + "\n";
  return out;
}

std::string serving(const Sources& sources) {
  return "# Deployment\n\n" +
         shell_block("quern serve " + word(sources.quantized_name) + " --port 8000") + "\n";
}

}  // namespace

std::string model_card(const CardSources& from) {
  const Sources sources(from);
  std::string out = metadata_header(sources, from) + "\n" + overview(sources) +
                    quantization(sources, from) + serving(sources) + evaluation(sources, from);
  while (out.ends_with("\n\n")) out.pop_back();
  return out;
}

}  // namespace quern
