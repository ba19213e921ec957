// See evaluator.h. Source of the order of steps: lm-evaluation-harness lm_eval/evaluator.py.
#include "quern/eval/evaluator.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <numeric>
#include <random>
#include <set>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/eval/answer_cache.h"
#include "quern/eval/dataset.h"
#include "quern/eval/likelihood_tokens.h"
#include "quern/eval/prompt.h"
#include "quern/eval/python_text.h"
#include "quern/eval/request.h"
#include "quern/eval/scoring.h"

namespace quern {
namespace {

// The task's number of examples, as the harness overrides it: a task that says 0 keeps 0.
std::int64_t examples_of(const EvalTask& task, const EvaluationOptions& options) {
  const std::int64_t own = task.num_fewshot.value_or(0);
  if (!options.num_fewshot) return own;
  if (task.num_fewshot && own == 0) {
    spdlog::info("{}: the task fixes num_fewshot at 0; --num_fewshot is ignored", task.name);
    return 0;
  }
  if (*options.num_fewshot < 0) throw UsageError("--num_fewshot must not be negative");
  return *options.num_fewshot;
}

std::int64_t seed_or_random(std::optional<std::int64_t> seed) {
  return seed ? *seed : static_cast<std::int64_t>(std::random_device{}());
}

// The documents that are asked, in the data's order: examples are drawn by position, as in the
// harness.
std::vector<std::size_t> chosen_rows(const std::string& task, std::size_t rows,
                                     const EvaluationOptions& options) {
  const auto listed = options.samples.find(task);
  std::vector<std::size_t> chosen;
  if (listed == options.samples.end()) {
    chosen.resize(limited_rows(options.limit, rows));
    std::iota(chosen.begin(), chosen.end(), std::size_t{0});
    return chosen;
  }
  const std::set<std::size_t> wanted(listed->second.begin(), listed->second.end());
  chosen.assign(wanted.begin(), wanted.end());
  if (chosen.empty() || chosen.back() >= rows) {
    throw UsageError("--samples: {} must list document numbers in [0, {}]", task, rows - 1);
  }
  return chosen;
}

// What stands between a prompt and the text that is scored.
std::string continuation_delimiter(const EvalTask& task, bool chat) {
  if (!chat) return task.target_delimiter;
  const std::string prefix = task.config.value("gen_prefix", Json()).is_string()
                                 ? task.config["gen_prefix"].get<std::string>()
                                 : "";
  return prefix.empty() || ends_with_space(prefix) ? "" : task.target_delimiter;
}

const PromptTokenizer& tokenizer_of(const EvaluationOptions& options) {
  if (options.tokenizer == nullptr)
    throw UsageError("this needs tokenizer=DIR (of tokenizer.json) in --model_args");
  return *options.tokenizer;
}

// A prompt as text, where messages are not sent.
std::string prompt_text(const EvalTask& task, const Json& prompt,
                        const EvaluationOptions& options) {
  if (prompt.is_string()) return prompt.get<std::string>();
  return tokenizer_of(options).render(prompt, task.gen_prefix.has_value());
}

std::string target_text(const EvaluatedSample& sample) {
  if (!sample.target.is_string())
    throw Error("the target must be text, found {}", sample.target.dump());
  return sample.target.get<std::string>();
}

// The right one of the choices is the question itself (the same text is scored behind each), or
// what is scored behind the question.
void add_choices(const EvalTask& task, PromptBuilder& prompts, EvaluatedSample& sample,
                 const EvaluationOptions& options) {
  const std::string delimiter = continuation_delimiter(task, options.apply_chat_template);
  if (prompts.choices_are_questions()) {
    const auto index = task.doc_to_text.index(sample.doc);
    if (!index) throw Error("doc_to_text is no index of a choice, as it is in the first document");
    sample.gold = *index;
    for (const Json& prompt : prompts.next(sample.doc, sample.choices))
      sample.scored.push_back(
          {prompt_text(task, prompt, options), delimiter + python_str(sample.target)});
  } else {
    sample.gold = sample.target;
    const std::string prompt = prompt_text(task, prompts.next(sample.doc), options);
    for (const std::string& choice : sample.choices)
      sample.scored.push_back({prompt, delimiter + choice});
  }
  sample.prompt = sample.scored.front().prompt;
  if (!task.scores(MetricKind::kAccMutualInfo)) return;
  for (const std::string& choice : sample.choices)
    sample.scored.push_back({"", delimiter + choice});
}

EvaluatedSample question(const EvalTask& task, PromptBuilder& prompts, const Json& row,
                         std::size_t number, const EvaluationOptions& options) {
  EvaluatedSample sample;
  sample.doc_id = number;
  sample.doc = row;
  sample.target = task.doc_to_target.value(row);
  if (task.doc_to_choice) sample.choices = task.doc_to_choice->choices(row);
  switch (task.output_type) {
    case OutputType::kGenerateUntil:
      sample.prompt = prompts.next(row);
      if (!options.sends_messages) sample.prompt = prompt_text(task, sample.prompt, options);
      break;
    case OutputType::kLoglikelihood:
      sample.prompt = prompt_text(task, prompts.next(row), options);
      sample.scored = {{sample.prompt.get<std::string>(), target_text(sample)}};
      break;
    case OutputType::kMultipleChoice:
      add_choices(task, prompts, sample, options);
      break;
    case OutputType::kRolling:
      sample.prompt = target_text(sample);
      sample.scored = {{"", target_text(sample)}};
      break;
  }
  return sample;
}

bool choices_are_questions(const EvalTask& task, const Json& first_row) {
  return task.output_type == OutputType::kMultipleChoice && task.doc_to_text.index(first_row);
}

EvaluatedTask prepare(EvalTask task, const EvaluationOptions& options) {
  return with_context(task.name, [&] {
    EvaluatedTask out{std::move(task), 0, {}, 0, {}};
    const EvalTask& spec = out.task;
    out.num_fewshot = examples_of(spec, options);
    out.generation_kwargs = spec.generation_kwargs;
    if (spec.output_type == OutputType::kGenerateUntil)
      out.generation_kwargs.update(options.gen_kwargs);

    std::vector<Json> rows = read_jsonl(find_split(spec, spec.test_split, options.data_dir));
    if (rows.empty()) throw Error("split '{}' has no rows", spec.test_split);
    std::vector<Json> pool;
    if (out.num_fewshot > 0) {
      if (spec.fewshot_samples) {
        pool.assign(spec.fewshot_samples->begin(), spec.fewshot_samples->end());
      } else {
        pool = read_jsonl(
            find_split(spec, spec.fewshot_split.value_or(spec.test_split), options.data_dir));
      }
    }
    out.original_rows = rows.size();
    const std::vector<std::size_t> chosen = chosen_rows(spec.name, rows.size(), options);

    PromptBuilder prompts(spec, pool,
                          {.num_fewshot = static_cast<std::size_t>(out.num_fewshot),
                           .chat = options.apply_chat_template,
                           .multiturn = options.fewshot_as_multiturn,
                           .system_instruction = options.system_instruction,
                           .fewshot_seed = seed_or_random(options.fewshot_seed),
                           .choices_are_questions = choices_are_questions(spec, rows[0])});
    for (const std::size_t number : chosen) {
      with_context(fmt::format("document {}", number), [&] {
        out.samples.push_back(question(spec, prompts, rows[number], number, options));
      });
    }
    return out;
  });
}

// The running score of one task behind the progress bar: its first metric under each filter.
class RunningScore {
 public:
  explicit RunningScore(const EvalTask& task) : task_(&task), sums_(task.filters.size(), 0.0) {}
  void add(const std::vector<std::vector<Json>>& scores) {
    ++count_;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      if (!scores[i].empty() && scores[i][0].is_number()) sums_[i] += scores[i][0].get<double>();
    }
  }
  std::string text() const {
    std::string out = task_->name;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      out +=
          fmt::format(" {} {:.4f}", task_->filters[i].name, sums_[i] / static_cast<double>(count_));
    }
    return out;
  }

 private:
  const EvalTask* task_;
  std::size_t count_ = 0;
  std::vector<double> sums_;
};

// Answers all questions of all tasks with `num_concurrent` threads, started in document order.
class Runner {
 public:
  Runner(Evaluation& evaluation, const EvaluationOptions& options, ChatBackend& backend)
      : evaluation_(evaluation), options_(options), backend_(backend) {
    if (options.show_progress) {
      progress_.emplace("Requesting", count(evaluation), ProgressUnit::kItems);
    }
    bool samples_at_random = false;
    for (const EvaluatedTask& task : evaluation.tasks) {
      scorers_.emplace_back(task.task);
      running_.emplace_back(task.task);
      for (std::size_t i = 0; i < task.samples.size(); ++i)
        work_.emplace_back(scorers_.size() - 1, i);
      samples_at_random =
          samples_at_random || (task.generation_kwargs.is_object() &&
                                task.generation_kwargs.value("do_sample", Json(false)) == true);
    }
    if (options.cache_file.empty()) return;
    if (samples_at_random) {
      spdlog::warn("do_sample is true: the answer cache is not used");
    } else {
      cache_.emplace(options.cache_file, evaluation.backend_identity);
    }
  }

  void run() {
    const std::size_t threads = std::min(options_.model.num_concurrent, work_.size());
    {
      std::vector<std::jthread> team;
      for (std::size_t i = 0; i < threads; ++i) team.emplace_back([this] { work(); });
    }
    progress_.reset();
    if (failure_) std::rethrow_exception(failure_);
  }

 private:
  static std::uint64_t count(const Evaluation& evaluation) {
    std::uint64_t total = 0;
    for (const EvaluatedTask& task : evaluation.tasks) total += task.samples.size();
    return total;
  }

  void work() {
    for (;;) {
      const std::size_t item = next_.fetch_add(1);
      if (item >= work_.size() || failed_.load()) return;
      try {
        answer(work_[item].first, work_[item].second);
      } catch (...) {
        const std::lock_guard lock(mutex_);
        if (!failed_.exchange(true)) failure_ = std::current_exception();
        return;
      }
    }
  }

  void answer(std::size_t task_index, std::size_t sample_index) {
    EvaluatedTask& task = evaluation_.tasks[task_index];
    EvaluatedSample& sample = task.samples[sample_index];
    with_context(fmt::format("{} document {}", task.task.name, sample.doc_id), [&] {
      if (task.task.output_type == OutputType::kGenerateUntil) {
        for (std::size_t i = 0; i < task.task.repeats; ++i) generate(task, sample, i);
      } else {
        for (const Continuation& continuation : sample.scored)
          sample.likelihoods.push_back(likelihood(task.task.output_type, continuation));
      }
      scorers_[task_index].score(sample);
      const std::lock_guard lock(mutex_);
      running_[task_index].add(sample.scores);
      if (progress_) {
        progress_->set_note(running_[task_index].text());
        progress_->add(1);
      }
    });
  }

  void generate(const EvaluatedTask& task, EvaluatedSample& sample, std::size_t repeat) {
    const Json prompt = sample.prompt.is_string() && options_.model.tokenized_requests
                            ? tokenized(sample.prompt, task.generation_kwargs)
                            : sample.prompt;
    const auto content = ask(make_request(prompt, task.generation_kwargs, options_.model), repeat);
    sample.answers.push_back(content.value_or(options_.null_answer));
    if (content) return;
    const std::lock_guard lock(mutex_);
    if (evaluation_.null_answers++ > 0) return;
    spdlog::warn(
        "the model returned null content (scored as '{}'): see reasoning_content and the limit on "
        "generated tokens; further ones are counted, not logged",
        options_.null_answer);
  }

  std::optional<std::string> ask(const Json& request, std::size_t repeat) {
    return cached(request, repeat, [&] { return backend_.complete(request); });
  }

  // Of max_length one token is for the one that a server has to generate.
  std::size_t max_prompt_tokens() const {
    return static_cast<std::size_t>(options_.model.max_length - 1);
  }

  // A batch of one prompt, cut on the left so that the answer has room.
  Json tokenized(const Json& prompt, const Json& generation_kwargs) const {
    const std::int64_t answer = max_generated_tokens(generation_kwargs, options_.model);
    if (answer >= options_.model.max_length - 1) {
      throw UsageError("max_length={} leaves no room for a prompt beside max_gen_toks={}",
                       options_.model.max_length, answer);
    }
    return Json::array({prompt_tokens(tokenizer_of(options_), prompt.get<std::string>(),
                                      max_prompt_tokens() - static_cast<std::size_t>(answer))});
  }

  Loglikelihood likelihood(OutputType type, const Continuation& continuation) {
    if (type != OutputType::kRolling)
      return likelihood(
          likelihood_tokens(tokenizer_of(options_), continuation, max_prompt_tokens()));
    Loglikelihood sum{0, true};
    for (const LikelihoodTokens& piece :
         rolling_tokens(tokenizer_of(options_), continuation.text, max_prompt_tokens())) {
      const Loglikelihood found = likelihood(piece);
      sum = {sum.value + found.value, sum.is_greedy && found.is_greedy};
    }
    return sum;
  }

  // In the cache a likelihood is the JSON text [value, is_greedy].
  Loglikelihood likelihood(const LikelihoodTokens& tokens) {
    const Json request{{"loglikelihood", tokens.tokens},
                       {"context", tokens.context},
                       {"model", options_.model.model}};
    const auto text = cached(request, 0, [&]() -> std::optional<std::string> {
      const Loglikelihood found = backend_.loglikelihood(tokens);
      return Json::array({found.value, found.is_greedy}).dump();
    });
    const Json found = parse_json(text.value_or(""), "answer cache");
    return {found.at(0).get<double>(), found.at(1).get<bool>()};
  }

  // Each repeat of a question has an answer of its own; the first one's key does not name it.
  template <typename Ask>
  std::optional<std::string> cached(const Json& request, std::size_t repeat,
                                    const Ask& ask_backend) {
    if (!cache_) return ask_backend();
    const std::string key =
        cache_->key(repeat == 0 ? request : Json{{"request", request}, {"repeat", repeat}});
    if (auto found = cache_->find(key)) {
      const std::lock_guard lock(mutex_);
      ++evaluation_.cached_answers;
      return *std::move(found);
    }
    auto answer = ask_backend();
    cache_->store(key, answer);
    return answer;
  }

  Evaluation& evaluation_;
  const EvaluationOptions& options_;
  ChatBackend& backend_;
  std::optional<Progress> progress_;
  std::vector<Scorer> scorers_;
  std::vector<RunningScore> running_;
  std::vector<std::pair<std::size_t, std::size_t>> work_;  // (task, sample)
  std::optional<AnswerCache> cache_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::mutex mutex_;  // running_, the counters of evaluation_, failure_
  std::exception_ptr failure_;
};

}  // namespace

Evaluation evaluate(std::vector<EvalTask> tasks, const EvaluationOptions& options,
                    ChatBackend& backend) {
  Evaluation evaluation;
  for (EvalTask& task : tasks) evaluation.tasks.push_back(prepare(std::move(task), options));
  evaluation.backend_identity = backend.identity();
  Runner(evaluation, options, backend).run();
  if (evaluation.cached_answers > 0) {
    spdlog::info("{} answers came from {}", evaluation.cached_answers, options.cache_file.string());
  }
  if (evaluation.null_answers > 0) {
    spdlog::warn("{} answers were null and scored as '{}'", evaluation.null_answers,
                 options.null_answer);
  }
  return evaluation;
}

}  // namespace quern
