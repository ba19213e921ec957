#include "quern/engine/engine_loop.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <optional>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/engine/grammar_constraint.h"
#include "quern/engine/output_processor.h"
#include "quern/engine/reasoning_budget.h"

namespace quern::engine {
namespace {

constexpr double kLogIntervalSeconds = 10;
// Logits of so many prompt tokens are held at once.
constexpr int kPromptRows = 32;

// One that is longer could never be scheduled.
void check_image_length(int tokens, int most) {
  if (tokens <= most) return;
  throw InvalidRequest(
      fmt::format("The decoder prompt contains an image item with length {}, which exceeds the "
                  "pre-allocated encoder cache size {}. Please reduce the input size or raise "
                  "max_num_batched_tokens.",
                  tokens, most),
      "image");
}

// In a step the tower could only fail, and the engine with it.
void check_segment(const vision::ImagePatches& image, const EngineLoopOptions& options) {
  const std::int64_t steps = std::min(image.grid_t, options.segment_steps);
  const std::int64_t patches = steps * image.grid_h * image.grid_w;
  if (patches <= options.max_segment_patches) return;
  throw InvalidRequest(fmt::format("The prompt contains an image item of {} patches in a segment, "
                                   "the vision tower takes at most {}.",
                                   patches, options.max_segment_patches),
                       "image");
}

}  // namespace

// All of one request. The scheduler sees the Sequence.
struct EngineLoop::Generation : Sequence {
  Generation(GenerationRequest&& source, const Tokenizer& tokenizer,
             std::span<const TokenId> eos_token_ids, int max_model_len, int vocab_size)
      : request(std::move(source)), processor(request, tokenizer, eos_token_ids, max_model_len) {
    num_prompt_tokens = static_cast<int>(request.prompt.size());
    if (request.grammar) {
      constraint.emplace(request.grammar, request.reasoning, tokenizer, eos_token_ids, vocab_size);
    }
    if (request.sampling.thinking_token_budget) {
      budget.emplace(*request.sampling.thinking_token_budget, request.reasoning, tokenizer);
    }
    priority = request.priority;
    const auto capacity =
        request.prompt.size() + static_cast<std::size_t>(request.sampling.max_tokens);
    tokens.reserve(capacity);
    tokens.assign(request.prompt.begin(), request.prompt.end());
    blocks.reserve(static_cast<std::size_t>(blocks_for(static_cast<int>(capacity))));
    for (const ImageInput& image : request.images) {
      images.push_back(
          {image.offset, image.num_tokens, image.hash, image.first_row, image.patches->num_tokens});
    }
    prefix_keys = make_prefix_keys(request.cache_salt, images);
    reads_prefix_cache = !request.sampling.prompt_logprobs;
  }

  std::span<const TokenId> output() const {
    return std::span(tokens).subspan(request.prompt.size());
  }

  const GenerationRequest request;
  OutputProcessor processor;
  std::optional<GrammarConstraint> constraint;
  std::optional<ReasoningBudget> budget;
  RandomKey random_key;
  const std::chrono::steady_clock::time_point submitted = std::chrono::steady_clock::now();
  double queue_seconds = -1;                   // until it is known
  std::vector<TokenLogprobs> prompt_logprobs;  // until the first output
  int num_scored = 1;  // prompt tokens that need no log-probability any more
  bool finished = false;
};

EngineLoop::EngineLoop(const EngineLoopOptions& options, StepRunner& runner,
                       const Tokenizer& tokenizer)
    : options_(options),
      runner_(runner),
      tokenizer_(tokenizer),
      pool_(options.num_kv_blocks, options.enable_prefix_caching),
      images_(options.encoder_cache_tokens, runner.feature_size()),
      scheduler_(options.scheduler, pool_, images_),
      sampler_(runner.vocab_size(), options.logprobs_mode) {
  QUERN_CHECK(options.max_model_len > 0 &&
              blocks_for(options.max_model_len) <= options.num_kv_blocks);
  const auto rows = static_cast<std::size_t>(options.scheduler.max_num_seqs);
  chunks_.reserve(rows);
  deliveries_.reserve(rows);
  logits_ =
      std::make_unique_for_overwrite<float[]>(rows * static_cast<std::size_t>(runner.vocab_size()));
  thread_ = std::thread([this] { run(); });
}

EngineLoop::~EngineLoop() {
  {
    const std::lock_guard lock(mutex_);
    draining_ = abort_ = stop_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

// ---- any thread

void EngineLoop::check_request(const GenerationRequest& request) const {
  QUERN_CHECK(request.on_output != nullptr);
  if (request.prompt.empty()) {
    throw InvalidRequest("Either prompt or prompt_embeds must be provided and non-empty.",
                         "prompt");
  }
  const int vocab_size = runner_.vocab_size();
  request.sampling.validate(vocab_size, options_.max_logprobs);
  for (const TokenId token : request.prompt) {
    if (token < 0 || token >= vocab_size) {
      throw InvalidRequest(fmt::format("Token id {} is out of vocabulary", token), "prompt");
    }
  }
  check_images(request);
  const std::size_t prompt = request.prompt.size();
  const std::size_t total = prompt + static_cast<std::size_t>(request.sampling.max_tokens);
  if (total > static_cast<std::size_t>(options_.max_model_len)) {
    throw InvalidRequest(
        fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                    "output tokens and your prompt contains at least {} input tokens, for a total "
                    "of at least {} tokens. Please reduce the length of the input prompt or the "
                    "number of requested output tokens. (parameter=input_tokens, value={})",
                    options_.max_model_len, request.sampling.max_tokens, prompt, total, prompt),
        "input_tokens");
  }
}

void EngineLoop::check_images(const GenerationRequest& request) const {
  int end = 0;
  for (const ImageInput& image : request.images) {
    QUERN_CHECK(image.patches != nullptr && image.num_tokens > 0 && image.offset >= end);
    QUERN_CHECK(image.first_row >= 0 &&
                image.first_row + image.num_tokens <= image.patches->num_tokens);
    end = image.offset + image.num_tokens;
    QUERN_CHECK(static_cast<std::size_t>(end) <= request.prompt.size());
    if (runner_.feature_size() == 0) throw InvalidRequest("The model takes no images.", "image");
    check_image_length(image.patches->num_tokens, options_.encoder_cache_tokens);
    check_segment(*image.patches, options_);
    if (options_.scheduler.disable_chunked_mm_input) {
      check_image_length(image.num_tokens, options_.scheduler.max_num_batched_tokens);
    }
  }
}

void EngineLoop::submit(GenerationRequest request) {
  check_request(request);
  Command command;
  command.start =
      std::make_unique<Generation>(std::move(request), tokenizer_, options_.eos_token_ids,
                                   options_.max_model_len, runner_.vocab_size());
  const std::string& id = command.start->request.id;
  {
    const std::lock_guard lock(mutex_);
    if (!healthy_) throw Error("the engine has failed; see the log");
    if (draining_) throw Error("the engine is shutting down");
    if (!live_ids_.insert(id).second) {
      throw InvalidRequest(fmt::format("request id '{}' is in use", id), "request_id");
    }
    ++num_pending_;
    ++published_.num_requests_waiting;
    inbox_.push_back(std::move(command));
  }
  wake_.notify_one();
}

void EngineLoop::cancel(const std::string& id) {
  {
    const std::lock_guard lock(mutex_);
    if (!live_ids_.contains(id)) return;
    inbox_.push_back({nullptr, id});
  }
  wake_.notify_one();
}

void EngineLoop::drain(double timeout_seconds) {
  std::unique_lock lock(mutex_);
  draining_ = true;
  const auto idle = [this] { return num_pending_ == 0; };
  if (finished_.wait_for(lock, std::chrono::duration<double>(timeout_seconds), idle)) return;
  abort_ = true;
  wake_.notify_one();
  finished_.wait(lock, idle);
}

EngineStats EngineLoop::stats() const {
  const std::lock_guard lock(mutex_);
  return published_;
}

bool EngineLoop::healthy() const {
  const std::lock_guard lock(mutex_);
  return healthy_;
}

// ---- engine thread

void EngineLoop::run() {
  while (take_commands()) {
    try {
      step();
    } catch (const std::exception& error) {
      fail(error);
    }
    publish_stats();
    deliver();
    log_throughput();
  }
}

// Waits for something to do; false when the loop is to end.
bool EngineLoop::take_commands() {
  bool abort = false;
  {
    std::unique_lock lock(mutex_);
    wake_.wait(lock, [this] { return !live_.empty() || !inbox_.empty() || stop_; });
    if (stop_ && live_.empty() && inbox_.empty()) return false;
    commands_.swap(inbox_);
    abort = abort_;
  }
  for (Command& command : commands_) {
    if (command.start != nullptr) {
      start(std::move(command.start));
    } else if (const auto found = live_.find(command.cancel_id); found != live_.end()) {
      end(*found->second, FinishReason::kAbort, "");
    }
  }
  commands_.clear();
  if (abort) end_all(FinishReason::kAbort, "");
  return true;
}

void EngineLoop::start(std::unique_ptr<Generation> generation) {
  if (live_.empty()) {  // the log does not count idle time
    logged_ = counters_;
    logged_at_ = std::chrono::steady_clock::now();
  }
  Generation& added = *generation;
  live_.emplace(added.request.id, std::move(generation));
  const std::optional<std::int64_t>& seed = added.request.sampling.seed;
  ++num_started_;
  added.random_key = seed ? RandomKey{static_cast<std::uint64_t>(*seed), 0}
                          : RandomKey{options_.seed, num_started_};
  scheduler_.add(added);
  if (failed_) end(added, FinishReason::kError, "the engine has failed; see the log");
}

void EngineLoop::step() {
  const std::span<const ScheduledChunk> scheduled = scheduler_.schedule();
  if (scheduled.empty()) return;
  encode_images(scheduled);
  build_chunks(scheduled);
  const auto vocab_size = static_cast<std::size_t>(runner_.vocab_size());
  const auto num_rows = static_cast<std::size_t>(
      std::ranges::count_if(scheduled, [](const ScheduledChunk& chunk) { return chunk.samples; }));
  const std::span<float> logits(logits_.get(), num_rows * vocab_size);
  runner_.run(chunks_, logits);
  scheduler_.commit();

  count_step(scheduled);
  counters_.shared_steps += scheduled.size() > 1 ? 1 : 0;
  counters_.max_requests_in_step =
      std::max<std::uint64_t>(counters_.max_requests_in_step, scheduled.size());
  std::size_t row = 0;
  int first_token = 0;
  for (const ScheduledChunk& chunk : scheduled) {
    auto& generation = static_cast<Generation&>(*chunk.sequence);
    if (generation.request.sampling.prompt_logprobs) score_prompt(generation, first_token, chunk);
    first_token += chunk.count;
    if (!chunk.samples) continue;
    const std::span<const float> row_logits = logits.subspan(row++ * vocab_size, vocab_size);
    if (!generation.finished) sample_token(generation, row_logits);
  }
}

// Log-probabilities of the prompt tokens behind those of the chunk; each once, though a preempted
// sequence is computed again.
void EngineLoop::score_prompt(Generation& generation, int first_row, const ScheduledChunk& chunk) {
  const auto vocab_size = static_cast<std::size_t>(runner_.vocab_size());
  const int end = std::min(chunk.start + chunk.count + 1, generation.num_prompt_tokens);
  try {
    while (generation.num_scored < end) {
      const int count = std::min(kPromptRows, end - generation.num_scored);
      std::vector<std::int32_t> rows(static_cast<std::size_t>(count));
      std::iota(rows.begin(), rows.end(), first_row + generation.num_scored - 1 - chunk.start);
      prompt_logits_.resize(kPromptRows * vocab_size);
      const std::span<float> logits = std::span(prompt_logits_).first(rows.size() * vocab_size);
      runner_.logits_of(rows, logits);
      for (std::size_t i = 0; i < rows.size(); ++i, ++generation.num_scored) {
        generation.prompt_logprobs.push_back(sampler_.log_probabilities(
            logits.subspan(i * vocab_size, vocab_size),
            generation.tokens[static_cast<std::size_t>(generation.num_scored)],
            *generation.request.sampling.prompt_logprobs));
      }
    }
  } catch (const std::exception& error) {
    this->end(generation, FinishReason::kError, error.what());
  }
}

// Images that a chunk needs and nobody has computed yet, all of the step together: several ranks
// may share them.
void EngineLoop::encode_images(std::span<const ScheduledChunk> scheduled) {
  std::vector<const vision::ImagePatches*> patches;
  std::vector<ImageHash> hashes;
  std::size_t floats = 0;
  for (const ScheduledChunk& chunk : scheduled) {
    const auto& generation = static_cast<const Generation&>(*chunk.sequence);
    for (std::size_t i = 0; i < generation.images.size(); ++i) {
      const SequenceImage& image = generation.images[i];
      if (!image.held || images_.computed(image.hash)) continue;
      if (std::ranges::find(hashes, image.hash) != hashes.end()) continue;
      patches.push_back(generation.request.images[i].patches.get());
      hashes.push_back(image.hash);
      floats += images_.features(image.hash).size();
    }
  }
  if (patches.empty()) return;
  std::vector<float> features(floats);
  runner_.encode(patches, features);
  std::span<const float> rest = features;
  for (const ImageHash& hash : hashes) {
    const std::span<float> target = images_.features(hash);
    std::ranges::copy(rest.first(target.size()), target.begin());
    rest = rest.subspan(target.size());
    images_.set_computed(hash);
    ++counters_.images_encoded;
  }
}

void EngineLoop::build_chunks(std::span<const ScheduledChunk> scheduled) {
  chunks_.clear();
  features_.clear();
  for (const ScheduledChunk& chunk : scheduled) {
    add_features(chunk);
    auto& generation = static_cast<Generation&>(*chunk.sequence);
    if (generation.queue_seconds >= 0) continue;
    generation.queue_seconds =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - generation.submitted)
            .count();
  }
  std::size_t next_features = 0;
  for (const ScheduledChunk& chunk : scheduled) {
    const std::span<const TokenId> tokens(chunk.sequence->tokens);
    chunks_.push_back({.token_ids = tokens.subspan(static_cast<std::size_t>(chunk.start),
                                                   static_cast<std::size_t>(chunk.count)),
                       .start_position = chunk.start,
                       .block_table = chunk.sequence->blocks,
                       .wants_logits = chunk.samples});
    std::size_t count = 0;
    for (const SequenceImage& image : chunk.sequence->images) count += image.held ? 1 : 0;
    chunks_.back().features = std::span(features_).subspan(next_features, count);
    next_features += count;
  }
}

// The parts of the images that lie in the chunk: the held ones.
void EngineLoop::add_features(const ScheduledChunk& chunk) {
  const std::size_t row_floats = runner_.feature_size();
  for (const SequenceImage& image : chunk.sequence->images) {
    if (!image.held) continue;
    const int first = std::max(chunk.start, image.offset);
    const int end = std::min(chunk.start + chunk.count, image.end());
    QUERN_CHECK(first < end);
    features_.push_back(
        {first - chunk.start,
         images_.features(image.hash)
             .subspan(static_cast<std::size_t>(image.first_row + first - image.offset) * row_floats,
                      static_cast<std::size_t>(end - first) * row_floats)});
  }
}

// What goes wrong with one row ends that request only.
void EngineLoop::sample_token(Generation& generation, std::span<const float> logits) {
  Output output;
  try {
    SamplingInput input{.params = generation.request.sampling,
                        .prompt = generation.request.prompt,
                        .output = generation.output(),
                        .eos_token_ids = options_.eos_token_ids,
                        .key = generation.random_key};
    auto& constraint = generation.constraint;
    if (constraint) {
      input.allowed = constraint->mask();
      input.only_end = constraint->only_end();
    }
    if (generation.budget) input.forced = generation.budget->forced();
    SampledToken sampled = sampler_.sample(logits, input);
    if (generation.budget) generation.budget->accept(sampled.token);
    if (constraint) constraint->accept(sampled.token);
    if (generation.output().empty()) {
      output.prompt_logprobs = std::move(generation.prompt_logprobs);
      counters_.prompt_tokens += static_cast<std::uint64_t>(generation.num_prompt_tokens);
    }
    ++counters_.generation_tokens;
    generation.tokens.push_back(sampled.token);
    // The end of a grammar is the end, also with ignore_eos or before min_tokens.
    if (constraint && constraint->ended()) {
      generation.processor.push_end(sampled.token, output);
    } else {
      generation.processor.push(sampled.token, output);
    }
    if (sampled.logprobs) output.logprobs.push_back(std::move(*sampled.logprobs));
  } catch (const std::exception& error) {
    end(generation, FinishReason::kError, error.what());
    return;
  }
  add_delivery(generation, std::move(output));
}

void EngineLoop::end(Generation& generation, FinishReason reason, const std::string& error) {
  if (generation.finished) return;
  Output output;
  generation.processor.finish(reason, output);
  output.error = error;
  add_delivery(generation, std::move(output));
}

void EngineLoop::end_all(FinishReason reason, const std::string& error) {
  for (const auto& [id, generation] : live_) end(*generation, reason, error);
}

void EngineLoop::fail(const std::exception& error) {
  spdlog::critical("engine step failed, no more requests are taken: {}", error.what());
  failed_ = true;
  {
    const std::lock_guard lock(mutex_);
    healthy_ = false;
  }
  end_all(FinishReason::kError, error.what());
}

void EngineLoop::count_step(std::span<const ScheduledChunk> scheduled) {
  std::size_t tokens = 0;
  for (const ScheduledChunk& chunk : scheduled) tokens += static_cast<std::size_t>(chunk.count);
  const auto& bounds = EngineStats::kStepTokenBounds;
  const auto bound = std::ranges::find_if(
      bounds, [&](int limit) { return tokens <= static_cast<std::size_t>(limit); });
  ++counters_.steps;
  ++counters_.steps_by_tokens[static_cast<std::size_t>(bound - bounds.begin())];
  counters_.step_tokens += tokens;
}

void EngineLoop::add_delivery(Generation& generation, Output output) {
  output.queue_seconds = generation.queue_seconds;
  output.prompt_tokens = generation.num_prompt_tokens;
  output.cached_tokens = generation.num_cached_prompt_tokens;
  if (output.finish_reason) {
    generation.finished = true;
    scheduler_.remove(generation);
    ++counters_.requests_finished;
  }
  deliveries_.push_back({&generation, std::move(output)});
}

void EngineLoop::deliver() {
  for (Delivery& delivery : deliveries_) {
    Generation& generation = *delivery.generation;
    const std::string& id = generation.request.id;
    const bool last = delivery.output.finish_reason.has_value();
    if (last) {  // the id may be used again as soon as its owner sees the end
      const std::lock_guard lock(mutex_);
      live_ids_.erase(id);
    }
    try {
      generation.request.on_output(std::move(delivery.output));
    } catch (const std::exception& error) {
      spdlog::error("request {}: on_output threw, the request is cancelled: {}", id, error.what());
      cancel(id);
    }
    if (!last) continue;
    live_.erase(live_.find(id));
    const std::lock_guard lock(mutex_);
    if (--num_pending_ == 0) finished_.notify_all();
  }
  deliveries_.clear();
}

void EngineLoop::publish_stats() {
  counters_.num_requests_running = scheduler_.num_running();
  counters_.kv_cache_usage =
      1.0 - static_cast<double>(pool_.num_free()) / static_cast<double>(pool_.num_blocks());
  counters_.num_preemptions = scheduler_.num_preemptions();
  counters_.prefix_cache_queries = scheduler_.prefix_cache_queries();
  counters_.prefix_cache_hits = scheduler_.prefix_cache_hits();
  counters_.mm_cache_queries = scheduler_.mm_cache_queries();
  counters_.mm_cache_hits = scheduler_.mm_cache_hits();
  const std::lock_guard lock(mutex_);
  const auto queued = std::ranges::count_if(
      inbox_, [](const Command& command) { return command.start != nullptr; });
  counters_.num_requests_waiting = scheduler_.num_waiting() + static_cast<int>(queued);
  published_ = counters_;
}

void EngineLoop::log_throughput() {
  if (!options_.log_stats) return;
  const auto now = std::chrono::steady_clock::now();
  const double seconds = std::chrono::duration<double>(now - logged_at_).count();
  if (seconds < kLogIntervalSeconds) return;
  const auto rate = [&](std::uint64_t EngineStats::*counter) {
    return static_cast<double>(counters_.*counter - logged_.*counter) / seconds;
  };
  const double queries =
      static_cast<double>(std::max<std::uint64_t>(counters_.prefix_cache_queries, 1));
  spdlog::info(
      "Avg prompt throughput: {:.1f} tokens/s, Avg generation throughput: {:.1f} tokens/s, "
      "Running: {} reqs, Waiting: {} reqs, KV cache usage: {:.1f}%, Prefix cache hit rate: "
      "{:.1f}%, "
      "Steps: {} ({} shared, up to {} reqs)",
      rate(&EngineStats::prompt_tokens), rate(&EngineStats::generation_tokens),
      counters_.num_requests_running, counters_.num_requests_waiting,
      100 * counters_.kv_cache_usage,
      100 * static_cast<double>(counters_.prefix_cache_hits) / queries, counters_.steps,
      counters_.shared_steps, counters_.max_requests_in_step);
  logged_ = counters_;
  logged_at_ = now;
}

}  // namespace quern::engine
