#include "quern/engine/scheduler.h"

#include <algorithm>

#include "quern/base/error.h"

namespace quern::engine {
namespace {

template <typename Queue>
void insert_in_order(Queue& queue, Sequence& sequence) {
  const auto before = [](const Sequence* a, const Sequence* b) {
    return a->priority != b->priority ? a->priority < b->priority : a->arrival < b->arrival;
  };
  queue.insert(std::upper_bound(queue.begin(), queue.end(), &sequence, before), &sequence);
}

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, BlockPool& pool, EncoderCache& images)
    : options_(options), pool_(pool), images_(images) {
  QUERN_CHECK(options.max_num_batched_tokens > 0 && options.max_num_seqs > 0);
  running_.reserve(static_cast<std::size_t>(options.max_num_seqs));
  chunks_.reserve(static_cast<std::size_t>(options.max_num_seqs));
}

void Scheduler::add(Sequence& sequence) {
  sequence.arrival = ++num_arrived_;
  insert_in_order(waiting_, sequence);
}

void Scheduler::remove(Sequence& sequence) {
  if (std::erase(running_, &sequence) == 0) std::erase(waiting_, &sequence);
  release(sequence);
}

std::span<const ScheduledChunk> Scheduler::schedule() {
  chunks_.clear();
  int budget = options_.max_num_batched_tokens;
  bool preempted = schedule_running(budget);
  // Who had to wait for an image's room may have got it from who was preempted.
  while (preempted && chunks_.empty() && !running_.empty()) preempted = schedule_running(budget);
  if (!preempted) schedule_waiting(budget);
  QUERN_CHECK(!chunks_.empty() || (running_.empty() && waiting_.empty()),
              "{} sequences wait and none fits into {} blocks", waiting_.size(),
              pool_.num_blocks());
  return chunks_;
}

// True when a sequence was preempted.
bool Scheduler::schedule_running(int& budget) {
  bool preempted = false;
  encoder_budget_ = options_.max_encoder_tokens;
  for (std::size_t i = 0; i < running_.size() && budget > 0; ++i) {
    Sequence& sequence = *running_[i];
    const int count = take_images(sequence, sequence.num_computed,
                                  std::min(sequence.num_tokens() - sequence.num_computed, budget));
    if (count == 0) continue;
    // The last one goes first; when that is the sequence itself, it was the last to look at.
    while (i < running_.size() && !grow(sequence, sequence.num_computed + count)) {
      preempt_last();
      preempted = true;
    }
    if (i == running_.size()) break;
    chunks_.push_back({&sequence, sequence.num_computed, count,
                       sequence.num_computed + count == sequence.num_tokens()});
    budget -= count;
  }
  return preempted;
}

void Scheduler::schedule_waiting(int& budget) {
  while (!waiting_.empty() && num_running() < options_.max_num_seqs && budget > 0) {
    Sequence& sequence = *waiting_.front();
    const int count = admit(sequence, budget);
    if (count == 0) return;
    chunks_.push_back({&sequence, sequence.num_computed, count,
                       sequence.num_computed + count == sequence.num_tokens()});
    budget -= count;
    waiting_.pop_front();
    insert_in_order(running_, sequence);
  }
}

// Takes the cached prefix, and images and blocks for the first chunk, whose length is returned; or
// nothing, and returns 0.
int Scheduler::admit(Sequence& sequence, int budget) {
  hit_.clear();
  if (sequence.reads_prefix_cache) {
    pool_.find_prefix(sequence.tokens, sequence.prefix_keys, hit_);
  }
  const int num_hit = static_cast<int>(hit_.size());
  const int cached = num_hit * kBlockTokens;
  const int count = take_images(sequence, cached, std::min(sequence.num_tokens() - cached, budget));
  const int needed = blocks_for(cached + count) - num_hit;
  if (count == 0 || needed > pool_.num_free() - pool_.count_free(hit_)) {
    release_images(sequence, sequence.num_tokens());
    return 0;
  }

  pool_.acquire(hit_);
  sequence.blocks.assign(hit_.begin(), hit_.end());
  QUERN_CHECK(pool_.allocate(needed, sequence.blocks));
  sequence.num_computed = cached;
  sequence.num_full_blocks = num_hit;
  if (pool_.prefix_caching() && sequence.reads_prefix_cache && !sequence.was_admitted) {
    sequence.num_cached_prompt_tokens = cached;
    prefix_cache_queries_ += static_cast<std::uint64_t>(sequence.num_tokens());
    prefix_cache_hits_ += static_cast<std::uint64_t>(cached);
  }
  sequence.was_admitted = true;
  return count;
}

bool Scheduler::grow(Sequence& sequence, int num_tokens) {
  const int needed = blocks_for(num_tokens) - static_cast<int>(sequence.blocks.size());
  return needed <= 0 || pool_.allocate(needed, sequence.blocks);
}

// References to the images of tokens [start, start + count), as far as there is room for them.
// Returns how many of the tokens can be computed.
int Scheduler::take_images(Sequence& sequence, int start, int count) {
  for (SequenceImage& image : sequence.images) {
    if (image.offset >= start + count) break;
    if (image.end() <= start || image.held) continue;
    const bool cut =
        options_.disable_chunked_mm_input && image.offset > start && image.end() > start + count;
    if (cut || !take_image(image)) return std::max(0, image.offset - start);
  }
  return count;
}

bool Scheduler::take_image(SequenceImage& image) {
  const bool cached = images_.acquire(image.hash);
  if (!cached) {
    if (image.num_rows > encoder_budget_) return false;
    if (!images_.insert(image.hash, image.num_rows)) return false;
    encoder_budget_ -= image.num_rows;
  }
  ++mm_cache_queries_;
  mm_cache_hits_ += cached ? 1 : 0;
  image.held = true;
  return true;
}

// Of the images that end at token `end` or before.
void Scheduler::release_images(Sequence& sequence, int end) {
  for (SequenceImage& image : sequence.images) {
    if (!image.held || image.end() > end) continue;
    images_.release(image.hash);
    image.held = false;
  }
}

// Back to the queue, to be recomputed; its output so far counts as prompt.
void Scheduler::preempt_last() {
  Sequence& sequence = *running_.back();
  running_.pop_back();
  release(sequence);
  insert_in_order(waiting_, sequence);
  ++num_preemptions_;
}

void Scheduler::release(Sequence& sequence) {
  pool_.release(sequence.blocks);
  release_images(sequence, sequence.num_tokens());
  sequence.blocks.clear();
  sequence.num_computed = 0;
  sequence.num_full_blocks = 0;
}

void Scheduler::commit() {
  for (const ScheduledChunk& chunk : chunks_) {
    chunk.sequence->num_computed += chunk.count;
    release_images(*chunk.sequence, chunk.sequence->num_computed);
    cache_full_blocks(*chunk.sequence);
  }
}

void Scheduler::cache_full_blocks(Sequence& sequence) {
  const std::span<const TokenId> tokens(sequence.tokens);
  for (int& i = sequence.num_full_blocks; i < sequence.num_computed / kBlockTokens; ++i) {
    const auto index = static_cast<std::size_t>(i);
    const auto& keys = sequence.prefix_keys;
    sequence.blocks[index] =
        pool_.cache(sequence.blocks[index], i == 0 ? kNoBlock : sequence.blocks[index - 1],
                    tokens.subspan(index * kBlockTokens, kBlockTokens),
                    index < keys.size() ? std::string_view(keys[index]) : std::string_view());
  }
}

}  // namespace quern::engine
