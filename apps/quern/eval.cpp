// `quern eval`: the evaluation, with the options of lm-evaluation-harness.
// Must never score: it parses options, calls eval/, prints.
// Proved by tests/apps and tools/eval_parity.sh.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <memory>

#include "command.h"
#include "divergence.h"
#include "in_process_backend.h"
#include "parallel.h"
#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/log.h"
#include "quern/eval/evaluator.h"
#include "quern/eval/http_chat_backend.h"
#include "quern/eval/python_text.h"
#include "quern/eval/repeats.h"
#include "quern/eval/report.h"
#include "quern/eval/results_table.h"
#include "quern/eval/yaml_json.h"

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
  bool predict_only = false;
  std::string samples;
  std::string config;
  int repeats = 1;
  DivergenceCommand divergence;
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
    const char* letter = "";
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
      {"verbosity", true, "the log level is the program's", "v"},
  };
  for (const Accepted& option : kAccepted) {
    const auto tell = [option] { spdlog::info("--{} has no effect: {}", option.name, option.why); };
    if (option.has_value) {
      command
          .add_option_function<std::vector<std::string>>(
              names(option.name, option.letter),
              [tell](const std::vector<std::string>&) { tell(); }, "accepted, no effect")
          ->expected(0, 1);
    } else {
      command.add_flag_callback(names(option.name), tell, "accepted, no effect");
    }
  }
}

// One value of the file as an option's text: mappings as JSON.
std::string option_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  return value.is_boolean() ? (value.get<bool>() ? "true" : "false") : value.dump();
}

// Options of a YAML file that the command line did not give.
void apply_config(CLI::App& app, const std::string& file) {
  constexpr std::size_t kMaxBytes = 1 << 20;
  const Json config = parse_yaml(read_file(file, kMaxBytes), file);
  if (!config.is_object()) throw Error("{}: expected a mapping of options", file);
  for (const auto& [key, value] : config.items()) {
    CLI::Option* option = app.get_option_no_throw("--" + key);
    if (option == nullptr || key == "config" || key == "help")
      throw Error("{}: unknown option '{}'", file, key);
    const bool is_flag = option->get_items_expected_max() == 0 || key == "apply_chat_template";
    if (option->count() > 0 || value.is_null() || (is_flag && value == false)) continue;
    std::vector<std::string> values;
    if (value.is_array() && option->get_items_expected_max() == 1) {
      std::string list;  // --seed 1,2,3,4
      for (const Json& element : value) list += (list.empty() ? "" : ",") + option_text(element);
      values.push_back(std::move(list));
    } else if (value.is_array()) {
      for (const Json& element : value) values.push_back(option_text(element));
    } else {
      values.push_back(option_text(value));
    }
    try {
      option->add_result(values);
      option->run_callback();
    } catch (const CLI::Error& error) {
      throw Error("{}: option '{}': {}", file, key, error.what());
    }
  }
}

// True by default whenever a chat template is applied.
bool multiturn(const EvalCommand& command) {
  const std::string& value = command.fewshot_as_multiturn;
  return value.empty() || value == "true" || value == "True" || value == "1" || value == "yes";
}

// A mistake in an argument's text is a wrong usage.
template <typename Parse>
auto with_usage(const Parse& parse) {
  try {
    return parse();
  } catch (const Error& error) {
    throw UsageError("{}", error.what());
  }
}

bool in_process(const EvalCommand& command) { return command.model == "quern"; }

void check(const EvalCommand& command) {
  if (command.model_args.empty()) throw UsageError("--model_args is required");
  if (!command.apply_chat_template) {
    if (!command.fewshot_as_multiturn.empty() && multiturn(command)) {
      throw UsageError("--fewshot_as_multiturn needs --apply_chat_template");
    }
    if (command.model == "local-chat-completions")
      throw UsageError("--model {} takes messages: give --apply_chat_template", command.model);
  }
  if ((command.log_samples || command.predict_only) && !command.output_path)
    throw UsageError("--log_samples and --predict_only need --output_path");
  if (command.model != "local-chat-completions" && command.model != "local-completions" &&
      !in_process(command)) {
    throw UsageError(
        "unknown --model '{}'; one of local-chat-completions, local-completions (HTTP), quern (in "
        "process)",
        command.model);
  }
  if (!command.samples.empty() && command.limit)
    throw UsageError("--samples and --limit exclude each other");
  if (command.repeats < 1) throw UsageError("--repeats must be at least 1");
  if (command.batch_size && *command.batch_size != "1") {
    spdlog::info(
        "--batch_size {} is taken as 1: num_concurrent in --model_args sets the parallelism",
        *command.batch_size);
  }
}

// --samples: JSON, or the path of a file of it: {"TASK": [0, 5, 7], ...}.
std::map<std::string, std::vector<std::size_t>> chosen_samples(const std::string& text) {
  constexpr std::size_t kMaxBytes = 16 << 20;
  std::map<std::string, std::vector<std::size_t>> chosen;
  if (text.empty()) return chosen;
  const bool is_file = std::filesystem::is_regular_file(text);
  const Json value = is_file ? parse_json(read_file(text, kMaxBytes), text)
                             : with_usage([&] { return parse_json(text, "--samples"); });
  if (!value.is_object()) throw UsageError("--samples must be an object of lists");
  for (const auto& [task, numbers] : value.items()) {
    if (!numbers.is_array() || numbers.empty())
      throw UsageError("--samples: {} must be a list of document numbers", task);
    for (const Json& number : numbers) {
      if (!number.is_number_unsigned())
        throw UsageError("--samples: {} holds {}, no document number", task, number.dump());
      chosen[task].push_back(number.get<std::size_t>());
    }
  }
  return chosen;
}

std::vector<EvalTask> tasks_of(const EvalCommand& command) {
  std::vector<EvalTask> tasks;
  for (const std::string& list : command.tasks) {
    for (std::size_t begin = 0; begin <= list.size();) {
      const std::size_t end = std::min(list.find(',', begin), list.size());
      if (end > begin) {
        for (EvalTask& task : load_tasks(list.substr(begin, end - begin), command.include_paths)) {
          const bool given = std::any_of(tasks.begin(), tasks.end(), [&](const EvalTask& other) {
            return other.name == task.name;
          });
          if (!given) tasks.push_back(std::move(task));
        }
      }
      begin = end + 1;
    }
  }
  if (tasks.empty()) throw UsageError("--tasks names no task");
  if (command.predict_only) {
    for (EvalTask& task : tasks) skip_metrics(task);
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
  const bool is_told = command.apply_chat_template || !command.fewshot_as_multiturn.empty();
  settings.fewshot_as_multiturn = is_told ? Json(multiturn(command)) : Json(nullptr);
  settings.log_samples = command.log_samples || command.predict_only;
  return settings;
}

EvaluationOptions evaluation_options(const EvalCommand& command, const Json& model_args,
                                     const Json& gen_kwargs, const Seeds& seeds) {
  EvaluationOptions options;
  options.model = parse_model_arguments(model_args, in_process(command));
  options.data_dir = command.data_dir;
  options.num_fewshot = command.num_fewshot;
  options.limit = command.limit;
  options.samples = chosen_samples(command.samples);
  options.apply_chat_template = command.apply_chat_template;
  options.fewshot_as_multiturn = multiturn(command);
  options.system_instruction = command.system_instruction;
  options.gen_kwargs = gen_kwargs;
  options.fewshot_seed = seeds[3];
  options.cache_file = command.use_cache.value_or("");
  options.null_answer = environment("LMEVAL_MODEL_NONE_ANSWER_PLACEHOLDER").value_or("");
  return options;
}

// The way to the model, with the tokenizer that it may need on this side.
struct Model {
  std::unique_ptr<PromptTokenizer> tokenizer;
  std::unique_ptr<ChatBackend> backend;
};

// A tokenizer's directory: tokenizer=DIR, else the model itself when it is a directory. Null when
// prompts are sent as text and nothing else needs it.
std::unique_ptr<PromptTokenizer> tokenizer_of(const ModelArguments& model) {
  const std::string& dir = model.tokenizer.empty() ? model.model : model.tokenizer;
  if (!std::filesystem::exists(std::filesystem::path(dir) / "tokenizer.json")) {
    if (!model.tokenized_requests && model.tokenizer.empty()) return nullptr;
    throw UsageError(
        "this model type needs tokenizer=DIR (of tokenizer.json) in --model_args; '{}' holds none "
        "(tokenizer_backend=None sends text, which is enough for generate_until)",
        dir);
  }
  auto tokenizer = std::make_unique<PromptTokenizer>(dir);
  if (model.custom_prefix_token_id)
    tokenizer->set_prefix_token(static_cast<std::int32_t>(*model.custom_prefix_token_id));
  return tokenizer;
}

Model make_model(const EvalCommand& command, const Json& model_args, EvaluationOptions& options) {
  Model model;
  const HttpBackendOptions http =
      in_process(command)
          ? HttpBackendOptions{}
          : http_backend_options(options.model, environment("OPENAI_API_KEY").value_or(""));
  if (command.model == "local-chat-completions") {
    model.backend = make_http_chat_backend(http);
    return model;
  }
  model.tokenizer = tokenizer_of(options.model);
  options.tokenizer = model.tokenizer.get();
  if (in_process(command)) {
    model.backend = make_in_process_backend(model_args);
    return model;
  }
  options.sends_messages = false;
  if (model.tokenizer && !options.model.eos_string)
    options.model.eos_string = model.tokenizer->special_token("eos_token");
  model.backend = make_http_completions_backend(http, options.model);
  return model;
}

// What the harness records of a tokenizer on this side.
Json tokenizer_info(const PromptTokenizer& tokenizer, const ModelArguments& model) {
  Json info = Json::object();
  const auto id_of = [&](const std::optional<std::string>& text) {
    return text ? tokenizer.tokenizer().token_id(*text) : std::nullopt;
  };
  for (const char* key : {"pad_token", "eos_token", "bos_token"}) {
    const auto text = tokenizer.special_token(key);
    const auto id = id_of(text);
    info[std::string("tokenizer_") + key] = Json::array(
        {text ? Json(*text) : Json(nullptr), id ? std::to_string(*id) : std::string("None")});
  }
  const auto eot = id_of(tokenizer.special_token("eos_token"));
  info["eot_token_id"] = eot ? Json(*eot) : Json(nullptr);
  info["max_length"] = model.max_length - 1;  // one token is left for the answer
  return info;
}

// How messages became text, for the results file.
void report_tokenizer(const EvalCommand& command, const EvaluationOptions& options,
                      ReportSettings& settings) {
  if (options.tokenizer != nullptr && !options.sends_messages)
    settings.tokenizer_info = tokenizer_info(*options.tokenizer, options.model);
  if (!command.apply_chat_template) return;
  settings.chat_template = options.sends_messages || options.tokenizer == nullptr
                               ? std::string()
                               : options.tokenizer->template_source();
}

void print_first_prompts(const Evaluation& evaluation) {
  for (const EvaluatedTask& task : evaluation.tasks) {
    const EvaluatedSample& first = task.samples.at(0);
    fmt::print("{} document {}:\n{}\ntarget:\n{}\n", task.task.name, first.doc_id,
               python_json(first.prompt, {.ensure_ascii = false, .indent = 2}),
               python_str(first.target));
  }
}

void run_eval(const EvalCommand& command) {
  check(command);
  const Json model_args = parse_key_values(command.model_args, "--model_args");
  const Json gen_kwargs = parse_key_values(command.gen_kwargs, "--gen_kwargs");
  const Seeds seeds = parse_seeds(command.seed);
  EvaluationOptions options = evaluation_options(command, model_args, gen_kwargs, seeds);
  if (command.limit)
    spdlog::warn("--limit is for tests: the score is that of the first questions only");
  std::vector<EvalTask> tasks = tasks_of(command);
  for (const auto& [task, numbers] : options.samples) {
    if (std::none_of(tasks.begin(), tasks.end(), [&](const auto& t) { return t.name == task; }))
      throw UsageError("--samples: '{}' is not among --tasks", task);
  }
  const Model model = make_model(command, model_args, options);

  RepeatedRuns repeated;
  ReportSettings settings = report_settings(command, model_args, gen_kwargs, seeds);
  report_tokenizer(command, options, settings);
  const std::int64_t first_seed = options.model.seed;
  for (int run = 0; run < command.repeats; ++run) {
    const auto start = std::chrono::steady_clock::now();
    settings.start_unix_time =
        std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    options.model.seed = first_seed + run;
    if (run > 0) tasks = tasks_of(command);
    const Evaluation evaluation = evaluate(std::move(tasks), options, *model.backend);
    if (command.write_out && run == 0) print_first_prompts(evaluation);
    settings.seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    Json results = results_json(evaluation, settings);
    repeated.add(evaluation, results, options.model.seed);
    if (command.repeats > 1) results["repeats"] = repeated.json();
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
  if (command.repeats > 1) fmt::print("\n{}", repeated.table());
}

}  // namespace

void add_eval(CLI::App& app) {
  CLI::App* eval = app.add_subcommand("eval", "measure a model as lm-evaluation-harness does");
  const auto command = std::make_shared<EvalCommand>();
  eval->add_option(names("model", "M"), command->model,
                   "local-chat-completions, local-completions (HTTP) or quern (in process)")
      ->capture_default_str();
  eval->add_option(
      names("model_args", "a"), command->model_args,
      "key=value,... or a JSON object: base_url, model, num_concurrent, max_gen_toks, timeout, "
      "max_retries; pretrained=DIR in process; tokenizer=DIR for local-completions");
  eval->add_option(
      names("tasks", "t"), command->tasks,
      "gsm8k, arith, a tag, a pattern (gsm8k*), a name from --include_path, FILE.yaml or a "
      "directory; or divergence alone");
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
  eval->add_option(names("samples", "E"), command->samples,
                   "document numbers by task, as JSON or a file of it: {\"gsm8k\": [0, 5]}");
  eval->add_flag(names("predict_only", "x"), command->predict_only,
                 "keep the answers, score nothing");
  eval->add_option(names("repeats", "R"), command->repeats,
                   "whole runs with request seeds seed, seed+1, ...: mean and spread")
      ->capture_default_str();
  eval->add_option(names("config", "C"), command->config,
                   "YAML file of these options; the command line wins");
  DivergenceCommand& divergence = command->divergence;
  eval->add_option(names("reference"), divergence.reference,
                   "divergence: the base model's directory, or its kept record");
  eval->add_option(names("data"), divergence.data,
                   "divergence: texts (.jsonl rows with text or messages, or one plain text)");
  eval->add_option(names("data_template"), divergence.text.row_template,
                   "divergence: Jinja over a row of the .jsonl file")
      ->capture_default_str();
  eval->add_option(names("context"), divergence.text.window, "divergence: tokens of one text")
      ->capture_default_str();
  eval->add_option(names("reference_logits"), divergence.reference_logits,
                   "divergence: keep the base's record (logits, layers) in FILE");
  eval->add_flag(names("logits_only"), divergence.logits_only,
                 "divergence: no comparison of layers");
  eval->add_flag(names("show_config"), command->show_config, "print the results file");
  add_accepted(*eval);
  eval->callback([command, eval] {
    if (!command->config.empty()) apply_config(*eval, command->config);
    if (command->tasks == std::vector<std::string>{"divergence"}) {
      command->divergence.model_args = parse_key_values(command->model_args, "--model_args");
      command->divergence.output_path = command->output_path;
      if (command->limit) command->divergence.text.limit = limited_rows(command->limit, SIZE_MAX);
      run_divergence(command->divergence);
    } else if (in_process(*command) && launched_rank().rank > 0) {
      throw CLI::RuntimeError(serve_rank_zero());  // rank 0 evaluates
    } else {
      run_eval(*command);
    }
  });
}

}  // namespace quern::cli
