// `quern eval`: the evaluation, with the options of lm-evaluation-harness.
// Must never score: it parses options, calls eval/, prints.
// Proved by tests/apps and tools/eval_parity.sh.
#include <fmt/format.h>

#include <chrono>
#include <memory>

#include "command.h"
#include "in_process_backend.h"
#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/eval/evaluator.h"
#include "quern/eval/http_chat_backend.h"
#include "quern/eval/python_text.h"
#include "quern/eval/report.h"
#include "quern/eval/results_table.h"

namespace quern::cli {
namespace {

struct EvalCommand {
  std::string model = "local-chat-completions";
  std::vector<std::string> model_args;
  std::vector<std::string> tasks;
  std::vector<std::string> gen_kwargs;
  std::vector<std::filesystem::path> include_paths;
  std::optional<std::int64_t> num_fewshot;
  std::optional<double> limit;
  std::optional<std::string> batch_size;
  std::optional<std::string> device;
  std::optional<std::string> output_path;
  std::optional<std::string> use_cache;
  std::string data_dir;
  std::string seed = "0,1234,1234,1234";
  std::string system_instruction;
  std::string fewshot_as_multiturn;
  bool apply_chat_template = false;
  bool log_samples = false;
  bool write_out = false;
  bool show_config = false;
};

// "--model_args,--model-args" and a short name.
std::string names(const std::string& name, const std::string& letter = "") {
  std::string dashed = name;
  for (char& c : dashed) c = c == '_' ? '-' : c;
  return (letter.empty() ? "" : "-" + letter + ",") + "--" + name +
         (dashed == name ? "" : ",--" + dashed);
}

// Options of the harness that change nothing here: accepted with one line that says why.
void add_accepted(CLI::App& command) {
  struct Accepted {
    const char* name;
    bool has_value;
    const char* why;
  };
  static constexpr Accepted kAccepted[] = {
      {"max_batch_size", true, "one question a request, num_concurrent requests at a time"},
      {"trust_remote_code", false, "no code is loaded from a checkpoint or data set"},
      {"confirm_run_unsafe_code", false, "no task runs code"},
      {"check_integrity", false, "task files are always checked"},
      {"cache_requests", true, "prompts are built in less time than a cache is read"},
      {"wandb_args", true, "results stay on this machine"},
      {"wandb_config_args", true, "results stay on this machine"},
      {"trackio_args", true, "results stay on this machine"},
      {"hf_hub_log_args", true, "results stay on this machine"},
      {"metadata", true, "no supported task reads it"},
      {"verbosity", true, "the log level is the program's"},
  };
  for (const Accepted& option : kAccepted) {
    const auto tell = [option] { spdlog::info("--{} has no effect: {}", option.name, option.why); };
    if (option.has_value) {
      command
          .add_option_function<std::vector<std::string>>(
              names(option.name), [tell](const std::vector<std::string>&) { tell(); },
              "accepted, no effect")
          ->expected(0, 1);
    } else {
      command.add_flag_callback(names(option.name), tell, "accepted, no effect");
    }
  }
}

// True by default whenever a chat template is applied.
bool multiturn(const EvalCommand& command) {
  const std::string& value = command.fewshot_as_multiturn;
  return value.empty() || value == "true" || value == "True" || value == "1" || value == "yes";
}

void check(const EvalCommand& command) {
  if (!command.apply_chat_template) {
    if (!command.fewshot_as_multiturn.empty() && multiturn(command)) {
      throw UsageError("--fewshot_as_multiturn needs --apply_chat_template");
    }
    throw UsageError("--model {} takes messages: give --apply_chat_template", command.model);
  }
  if (command.log_samples && !command.output_path)
    throw UsageError("--log_samples needs --output_path");
  if (command.model != "local-chat-completions" && command.model != "quern") {
    throw UsageError(
        "unknown --model '{}'; one of local-chat-completions (HTTP), quern (in process)",
        command.model);
  }
  if (command.batch_size && *command.batch_size != "1") {
    spdlog::info(
        "--batch_size {} is taken as 1: num_concurrent in --model_args sets the parallelism",
        *command.batch_size);
  }
}

std::vector<EvalTask> load_tasks(const EvalCommand& command) {
  std::vector<EvalTask> tasks;
  for (const std::string& list : command.tasks) {
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      if (end > begin)
        tasks.push_back(load_task(list.substr(begin, end - begin), command.include_paths));
      begin = end + 1;
    }
  }
  if (tasks.empty()) throw UsageError("--tasks names no task");
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    for (std::size_t j = 0; j < i; ++j) {
      if (tasks[i].name == tasks[j].name)
        throw UsageError("task '{}' is given twice", tasks[i].name);
    }
  }
  return tasks;
}

ReportSettings report_settings(const EvalCommand& command, const Json& model_args,
                               const Json& gen_kwargs, const Seeds& seeds) {
  ReportSettings settings;
  settings.model_source = command.model;
  settings.model_args = model_args;
  if (command.batch_size) settings.batch_size = *command.batch_size;
  if (command.device) settings.device = *command.device;
  if (command.use_cache) settings.use_cache = *command.use_cache;
  settings.limit = command.limit;
  settings.num_fewshot = command.num_fewshot;
  settings.gen_kwargs = gen_kwargs;
  for (const auto& seed : seeds) settings.seeds.push_back(seed ? Json(*seed) : Json(nullptr));
  settings.system_instruction = command.system_instruction;
  settings.fewshot_as_multiturn = multiturn(command);
  settings.log_samples = command.log_samples;
  return settings;
}

void run_eval(const EvalCommand& command) {
  check(command);
  const auto start = std::chrono::steady_clock::now();
  const double unix_time =
      std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const bool in_process = command.model == "quern";
  const Json model_args = parse_key_values(command.model_args, "--model_args");
  const Json gen_kwargs = parse_key_values(command.gen_kwargs, "--gen_kwargs");
  const Seeds seeds = parse_seeds(command.seed);

  EvaluationOptions options;
  options.model = parse_model_arguments(model_args, in_process);
  options.data_dir = command.data_dir;
  options.num_fewshot = command.num_fewshot;
  options.limit = command.limit;
  options.fewshot_as_multiturn = multiturn(command);
  options.system_instruction = command.system_instruction;
  options.gen_kwargs = gen_kwargs;
  options.fewshot_seed = seeds[3];
  options.cache_file = command.use_cache.value_or("");
  options.null_answer = environment("LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER").value_or("");
  std::vector<EvalTask> tasks = load_tasks(command);
  if (command.limit)
    spdlog::warn("--limit is for tests: the score is that of the first questions only");

  const std::unique_ptr<ChatBackend> backend =
      in_process ? make_in_process_backend(model_args)
                 : make_http_chat_backend(http_backend_options(
                       options.model, environment("OPENAI_API_KEY").value_or("")));
  const Evaluation evaluation = evaluate(std::move(tasks), options, *backend);
  if (command.write_out) {
    for (const EvaluatedTask& task : evaluation.tasks) {
      fmt::print("{} document 0:\n{}\ntarget:\n{}\n", task.task.name,
                 python_json(task.samples.at(0).messages, {.ensure_ascii = false, .indent = 2}),
                 task.samples.at(0).target);
    }
  }

  ReportSettings settings = report_settings(command, model_args, gen_kwargs, seeds);
  settings.start_unix_time = unix_time;
  settings.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  const Json results = results_json(evaluation, settings);
  if (command.show_config) {
    fmt::print("{}\n", python_json(results, {.ensure_ascii = false, .indent = 2}));
  }
  if (command.output_path) {
    const SavedFiles saved = save_results(evaluation, settings, results, *command.output_path);
    spdlog::info("results: {}", saved.results.string());
    for (const auto& file : saved.samples) spdlog::info("samples: {}", file.string());
  }
  fmt::print("{}\n{}", console_line(settings), results_table(results));
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* eval = app.add_subcommand("eval", "measure a model as lm-evaluation-harness does");
  const auto command = std::make_shared<EvalCommand>();
  eval->add_option(names("model", "M"), command->model,
                   "local-chat-completions (HTTP) or quern (in process)")
      ->capture_default_str();
  eval->add_option(
          names("model_args", "a"), command->model_args,
          "key=value,... or a JSON object: base_url, model, num_concurrent, max_gen_toks, timeout, "
          "max_retries; pretrained=DIR in process")
      ->required();
  eval->add_option(names("tasks", "t"), command->tasks,
                   "gsm8k, arith, a name from --include_path, or FILE.yaml")
      ->required();
  eval->add_option(names("num_fewshot", "f"), command->num_fewshot,
                   "worked examples in front of each question");
  eval->add_option(names("limit", "L"), command->limit,
                   "first N questions of each task, or a share below 1");
  eval->add_option_function<std::vector<std::string>>(
          names("apply_chat_template"),
          [command](const std::vector<std::string>&) { command->apply_chat_template = true; },
          "send messages (a template name has no effect: the server's template is used)")
      ->expected(0, 1)
      ->trigger_on_parse();
  eval->add_option(
          names("fewshot_as_multiturn"), command->fewshot_as_multiturn,
          "examples as user and assistant turns (default with --apply_chat_template), or false")
      ->expected(0, 1)
      ->default_str("true");
  eval->add_option(names("system_instruction"), command->system_instruction, "a system message");
  eval->add_option(names("gen_kwargs"), command->gen_kwargs,
                   "generation arguments over the task's own");
  eval->add_option(names("seed"), command->seed, "python,numpy,torch,fewshot or one value for all")
      ->capture_default_str();
  eval->add_option(names("batch_size", "b"), command->batch_size, "accepted; taken as 1");
  eval->add_option(names("device"), command->device, "accepted; recorded in the results");
  eval->add_option(names("output_path", "o"), command->output_path,
                   "directory or FILE.json for results");
  eval->add_flag(names("log_samples", "s"), command->log_samples,
                 "write each question with its answer and score");
  eval->add_option(names("use_cache", "c"), command->use_cache,
                   "file of answers: an interrupted run goes on");
  eval->add_option(names("include_path"), command->include_paths,
                   "directories with more task files");
  eval->add_option(names("data_dir"), command->data_dir, "directory of TASK/SPLIT.jsonl");
  eval->add_flag(names("write_out", "w"), command->write_out,
                 "print the prompt of the first question");
  eval->add_flag(names("show_config"), command->show_config, "print the results file");
  add_accepted(*eval);
  eval->callback([command] { run_eval(*command); });
}

}  // namespace quern::cli
