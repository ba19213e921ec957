// See divergence.h.
#include "divergence.h"

#include <fmt/format.h>
#include <unistd.h>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/divergence.h"
#include "quern/eval/python_text.h"
#include "quern/eval/report.h"

namespace quern::cli {
namespace {

LogitModelOptions model_options(const Json& arguments) {
  LogitModelOptions options;
  for (const auto& [key, value] : arguments.items()) {
    if (key == "pretrained") continue;
    if (key == "threads" && value.is_number_integer() && value.get<std::int64_t>() > 0 &&
        value.get<std::int64_t>() <= 4096) {
      options.threads = value.get<int>();
    } else if (key == "moe_backend" && (value == "native" || value == "auto")) {
      options.moe_backend = kernels::MoeBackend::kNative;
    } else if (key == "moe_backend" && value == "emulation") {
      options.moe_backend = kernels::MoeBackend::kEmulation;
    } else {
      throw UsageError(
          "--model_args of divergence: {}={} is not understood (pretrained=DIR, "
          "moe_backend=native|emulation, threads=N)",
          key, value.dump());
    }
  }
  return options;
}

// A file that is removed at the end; its folder is made for it alone.
class TemporaryFile {
 public:
  TemporaryFile() {
    std::string name = (std::filesystem::temp_directory_path() / "quern-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw_errno("cannot make a temporary directory");
    folder_ = name;
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() {
    std::error_code ignored;
    std::filesystem::remove_all(folder_, ignored);
  }
  std::filesystem::path path() const { return folder_ / "base.safetensors"; }

 private:
  std::filesystem::path folder_;
};

void record_base(const DivergenceCommand& command, const LogitModelOptions& options,
                 const std::filesystem::path& file) {
  if (command.data.empty()) throw UsageError("--tasks divergence needs --data FILE");
  const PromptTokenizer tokenizer(command.reference);
  const auto texts = read_texts(command.data, tokenizer, command.text);
  LogitModel base(command.reference, options);
  write_base_record(file, base, texts, !command.logits_only);
}

// In the harness's form, so that its readers and `quern card` find the main figures.
Json results_of(const Divergence& divergence, const DivergenceCommand& command,
                const std::string& model, const LogitModel& quantized) {
  const DivergenceSummary s = summarize(divergence);
  Json task{{"name", "divergence"}, {"alias", "divergence"}, {"sample_len", s.tokens}};
  const auto put = [&](const char* name, const Estimate& value) {
    task[fmt::format("{},none", name)] = value.value;
    task[fmt::format("{}_stderr,none", name)] = value.error;
  };
  put("kl_divergence", s.kl);
  put("top1_agreement", s.same_choice);
  put("base_perplexity", s.base_perplexity);
  put("quantized_perplexity", s.quantized_perplexity);
  return Json{{"results", {{"divergence", task}}},
              {"versions", {{"divergence", 1}}},
              {"n-shot", {{"divergence", 0}}},
              {"higher_is_better",
               {{"divergence",
                 {{"kl_divergence", false},
                  {"top1_agreement", true},
                  {"base_perplexity", false},
                  {"quantized_perplexity", false}}}}},
              {"n-samples", {{"divergence", {{"original", s.tokens}, {"effective", s.tokens}}}}},
              {"config",
               {{"model", "quern"},
                {"model_args", command.model_args},
                {"reference", command.reference},
                {"data", command.data}}},
              {"model_source", "quern"},
              {"model_name", model},
              {"model_name_sanitized", sanitize_model_name(model)},
              {"fingerprint", quantized.fingerprint()},
              {"divergence", divergence_json(divergence)}};
}

}  // namespace

void run_divergence(const DivergenceCommand& command) {
  if (command.reference.empty())
    throw UsageError("--tasks divergence needs --reference BASE (a directory, or a kept record)");
  const Json pretrained = command.model_args.value("pretrained", Json());
  if (!pretrained.is_string())
    throw UsageError("--tasks divergence needs --model_args pretrained=DIR");
  const LogitModelOptions options = model_options(command.model_args);
  std::optional<TemporaryFile> temporary;
  std::filesystem::path file = command.reference;
  if (std::filesystem::is_directory(command.reference)) {
    if (command.reference_logits.empty()) temporary.emplace();
    file = temporary ? temporary->path() : std::filesystem::path(command.reference_logits);
    record_base(command, options, file);
  } else if (!command.data.empty()) {
    throw UsageError("--data belongs to a base model's directory; a record has its own texts");
  }
  const auto model = pretrained.get<std::string>();
  const BaseRecord base(file);
  LogitModel quantized(model, options);
  const Divergence divergence = measure_divergence(base, quantized);
  if (command.output_path) {
    const auto saved = save_results_file(results_of(divergence, command, model, quantized), model,
                                         *command.output_path);
    spdlog::info("results: {}", saved.string());
  }
  fmt::print("{} against {}\n\n{}", model, command.reference, divergence_table(divergence));
}

}  // namespace quern::cli
