// Decides which tokens of which sequences make up the next step. Pure logic, no model.
// Must never let a waiting sequence overtake one of its priority or a lower number, nor a result
// depend on its decisions.
// Proved by tests/engine/scheduler_test.cc.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <vector>

#include "quern/engine/block_pool.h"
#include "quern/engine/sequence.h"

namespace quern::engine {

struct SchedulerOptions {
  int max_num_batched_tokens = 2048;  // token budget of a step
  int max_num_seqs = 256;             // sequences running at once
  int max_encoder_tokens = 0;         // rows of images encoded in a step; at least the largest one
  bool disable_chunked_mm_input = false;  // a chunk never ends inside an image
};

// tokens[start, start + count) of a sequence. `samples` when the chunk reaches its last token.
struct ScheduledChunk {
  Sequence* sequence = nullptr;
  int start = 0;
  int count = 0;
  bool samples = false;
};

// The step of vLLM v1/core/sched/scheduler.py. All is ordered by (priority, arrival), which is
// first come, first served where priorities are equal; who is last in that order is preempted
// first. Images: a chunk that holds placeholders of an image holds a reference to it in the encoder
// cache until all of them are computed; a chunk is cut before an image for which the step or the
// cache has no room. Sequences belong to the caller and stay until remove(). Not thread-safe.
class Scheduler {
 public:
  // `pool` outlives the scheduler and holds at least one sequence of the longest length; `images`
  // (outlives it too) holds at least the largest image.
  Scheduler(const SchedulerOptions& options, BlockPool& pool, EncoderCache& images);

  // To the waiting queue, behind all of its priority or a lower number.
  void add(Sequence& sequence);
  // Finished or cancelled: forgets the sequence and frees its blocks.
  void remove(Sequence& sequence);

  // The next step's chunks: running sequences in order, then waiting ones. Valid until
  // the next call; each chunk's blocks are allocated, its images held. Empty only when there is no
  // sequence.
  std::span<const ScheduledChunk> schedule();
  // The step was executed: its tokens are computed, blocks that became full can be found. Once a
  // schedule().
  void commit();

  int num_running() const { return static_cast<int>(running_.size()); }
  int num_waiting() const { return static_cast<int>(waiting_.size()); }
  std::uint64_t num_preemptions() const { return num_preemptions_; }
  std::uint64_t prefix_cache_queries() const { return prefix_cache_queries_; }  // tokens
  std::uint64_t prefix_cache_hits() const { return prefix_cache_hits_; }        // tokens
  std::uint64_t mm_cache_queries() const { return mm_cache_queries_; }          // images
  std::uint64_t mm_cache_hits() const { return mm_cache_hits_; }                // images

 private:
  bool schedule_running(int& budget);
  void schedule_waiting(int& budget);
  int admit(Sequence& sequence, int budget);
  bool grow(Sequence& sequence, int num_tokens);
  int take_images(Sequence& sequence, int start, int count);
  bool take_image(SequenceImage& image);
  void release_images(Sequence& sequence, int end);
  void preempt_last();
  void release(Sequence& sequence);
  void cache_full_blocks(Sequence& sequence);

  SchedulerOptions options_;
  BlockPool& pool_;
  EncoderCache& images_;
  int encoder_budget_ = 0;          // rows that may still be encoded in this step
  std::vector<Sequence*> running_;  // both by (priority, arrival)
  std::deque<Sequence*> waiting_;
  std::uint64_t num_arrived_ = 0;
  std::vector<ScheduledChunk> chunks_;
  std::vector<BlockId> hit_;  // scratch of admit()
  std::uint64_t num_preemptions_ = 0;
  std::uint64_t prefix_cache_queries_ = 0;
  std::uint64_t prefix_cache_hits_ = 0;
  std::uint64_t mm_cache_queries_ = 0;
  std::uint64_t mm_cache_hits_ = 0;
};

}  // namespace quern::engine
