// The server's side of a model that several processes share: starts them under mpirun (or, inside
// mpirun or srun, the process of rank 0), asks rank 0 for results, and outlives them.
// Must never leave a process behind: whatever happens to this process, the ranks end.
// Proved by tests/distributed/rank_job_test.cc and tests/apps/parallel_program_test.cc.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "quern/distributed/frame_socket.h"

namespace quern {

// What decides the command line of mpirun.
struct LaunchOptions {
  int size = 1;
  bool as_root = false;
  int numa_nodes = 1;
  std::vector<std::string> more;  // words of the user
};

// "mpirun -n N ...", without the program.
std::vector<std::string> mpirun_words(const LaunchOptions& options);
// Of this machine and user.
LaunchOptions launch_options(int size, const std::string& more);

struct RankJobOptions {
  // The command, to which "--socket PATH" is added.
  std::vector<std::string> words;
  std::chrono::milliseconds timeout = std::chrono::minutes(2);        // of silence
  std::chrono::milliseconds start_timeout = std::chrono::minutes(2);  // until rank 0 is there
};

// One thread asks; alive() may be called by any.
class RankJob {
 public:
  // Starts the command, sends `setup` and waits for the answer, a text. Throws what went wrong.
  RankJob(const RankJobOptions& options, std::span<const std::byte> setup);
  RankJob(const RankJob&) = delete;
  RankJob& operator=(const RankJob&) = delete;
  ~RankJob();

  const std::string& ready_text() const { return ready_text_; }
  // The answer to a request fills `result`. Throws when the job has failed, and ever after.
  void request(std::uint64_t kind, std::span<const std::byte> bytes, std::span<std::byte> result);
  bool alive() const { return alive_; }

 private:
  void connect(PrivateListener& listener);
  void read();
  void read_frame(const FrameHeader& header);
  void fail(const std::string& reason);
  bool wait_exit(std::chrono::milliseconds time);
  void terminate();

  RankJobOptions options_;
  pid_t pid_ = -1;
  std::mutex exit_mutex_;
  std::string exit_text_;  // how the command ended; empty while it runs
  FrameSocket socket_;
  std::atomic<bool> alive_{true};
  std::atomic<bool> ending_{false};
  std::string ready_text_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::span<std::byte> result_;
  bool waiting_ = false;  // for an answer
  std::string error_;

  std::thread reader_;
};

}  // namespace quern
