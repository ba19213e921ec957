// See evaluator.h. Source of the order of steps: lm-evaluation-harness lm_eval/evaluator.py.
#include "quern/eval/evaluator.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <random>
#include <thread>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/progress.h"
#include "quern/eval/answer_cache.h"
#include "quern/eval/dataset.h"
#include "quern/eval/prompt.h"
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

EvaluatedTask prepare(EvalTask task, const EvaluationOptions& options) {
  return with_context(task.name, [&] {
    EvaluatedTask out{std::move(task), 0, {}, 0, {}};
    const EvalTask& spec = out.task;
    out.num_fewshot = examples_of(spec, options);
    out.generation_kwargs = spec.generation_kwargs;
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
    rows.resize(limited_rows(options.limit, rows.size()));

    PromptBuilder prompts(spec, pool,
                          {.num_fewshot = static_cast<std::size_t>(out.num_fewshot),
                           .multiturn = options.fewshot_as_multiturn,
                           .system_instruction = options.system_instruction,
                           .fewshot_seed = seed_or_random(options.fewshot_seed)});
    for (Json& row : rows) {
      EvaluatedSample sample;
      sample.doc_id = out.samples.size();
      sample.messages = prompts.next(row);
      sample.target = spec.doc_to_target.render(row);
      sample.doc = std::move(row);
      out.samples.push_back(std::move(sample));
    }
    return out;
  });
}

// Filters and metric of one task.
class Scorer {
 public:
  explicit Scorer(const EvalTask& task) : metric_(task.exact_match) {
    for (const FilterSpec& filter : task.filters) filters_.emplace_back(filter);
  }

  void score(EvaluatedSample& sample) const {
    for (const AnswerFilter& filter : filters_) {
      sample.filtered.push_back(filter.apply(sample.answer));
      sample.scores.push_back(metric_.score(sample.filtered.back(), sample.target));
    }
  }
  const std::vector<AnswerFilter>& filters() const { return filters_; }

 private:
  std::vector<AnswerFilter> filters_;
  ExactMatch metric_;
};

// The running score of one task behind the progress bar.
class RunningScore {
 public:
  explicit RunningScore(std::size_t filters) : sums_(filters, 0.0) {}
  void add(const std::vector<double>& scores) {
    ++count_;
    for (std::size_t i = 0; i < scores.size(); ++i) sums_[i] += scores[i];
  }
  std::string text(const std::string& task, const std::vector<AnswerFilter>& filters) const {
    std::string out = task;
    for (std::size_t i = 0; i < sums_.size(); ++i) {
      out += fmt::format(" {} {:.4f}", filters[i].name(), sums_[i] / static_cast<double>(count_));
    }
    return out;
  }

 private:
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
      running_.emplace_back(task.task.filters.size());
      for (std::size_t i = 0; i < task.samples.size(); ++i)
        work_.emplace_back(scorers_.size() - 1, i);
      samples_at_random =
          samples_at_random || task.generation_kwargs.value("do_sample", Json(false)) == true;
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
      const auto content =
          ask(make_request(sample.messages, task.generation_kwargs, options_.model));
      sample.answer = content.value_or(options_.null_answer);
      scorers_[task_index].score(sample);
      const std::lock_guard lock(mutex_);
      if (!content && evaluation_.null_answers++ == 0) {
        spdlog::warn(
            "the model returned null content (scored as '{}'): see reasoning_content and the limit "
            "on "
            "generated tokens; further ones are counted, not logged",
            options_.null_answer);
      }
      running_[task_index].add(sample.scores);
      if (progress_) {
        progress_->set_note(
            running_[task_index].text(task.task.name, scorers_[task_index].filters()));
        progress_->add(1);
      }
    });
  }

  std::optional<std::string> ask(const Json& request) {
    if (!cache_) return backend_.complete(request);
    const std::string key = cache_->key(request);
    if (auto cached = cache_->find(key)) {
      const std::lock_guard lock(mutex_);
      ++evaluation_.cached_answers;
      return *std::move(cached);
    }
    auto content = backend_.complete(request);
    cache_->store(key, content);
    return content;
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
