// See rank_job.h.
#include "quern/distributed/rank_job.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <initializer_list>

#include "quern/base/error.h"
#include "quern/base/log.h"

extern char** environ;

namespace quern {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);
constexpr auto kEndTime = std::chrono::seconds(10);       // for ranks that were asked to end
constexpr auto kGrace = std::chrono::seconds(1);          // for a job that ends by itself
constexpr auto kTerminateTime = std::chrono::seconds(5);  // between SIGTERM and SIGKILL

std::vector<std::string> split_words(const std::string& text) {
  std::vector<std::string> words;
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t end = std::min(text.find(' ', at), text.size());
    if (end > at) words.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return words;
}

int count_numa_nodes() {
  int count = 0;
  std::error_code ignored;
  for (const auto& entry :
       std::filesystem::directory_iterator("/sys/devices/system/node", ignored)) {
    const std::string name = entry.path().filename().string();
    count += name.starts_with("node") && name.size() > 4 && name[4] >= '0' && name[4] <= '9';
  }
  return std::max(count, 1);
}

// Starts the words in a process group of their own, so that a terminal's Ctrl-C reaches only this
// process; what they print goes to stderr.
pid_t spawn(const std::vector<std::string>& words) {
  std::vector<char*> arguments;
  for (const std::string& word : words) arguments.push_back(const_cast<char*>(word.c_str()));
  arguments.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETPGROUP);
  posix_spawnattr_setpgroup(&attributes, 0);
  pid_t pid = -1;
  const int code =
      ::posix_spawnp(&pid, arguments[0], &actions, &attributes, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  posix_spawnattr_destroy(&attributes);
  if (code != 0) {
    throw Error("cannot start '{}': {}{}", words[0], std::strerror(code),
                words[0] == "mpirun" ? " (Debian: openmpi-bin)" : "");
  }
  return pid;
}

std::string exit_text(int status) {
  if (WIFSIGNALED(status)) return fmt::format("killed by signal {}", WTERMSIG(status));
  return fmt::format("exit status {}", WEXITSTATUS(status));
}

}  // namespace

std::vector<std::string> mpirun_words(const LaunchOptions& options) {
  std::vector<std::string> words{"mpirun", "-n", std::to_string(options.size), "--oversubscribe"};
  const auto add = [&](std::initializer_list<const char*> more) {
    words.insert(words.end(), more.begin(), more.end());
  };
  if (options.as_root) add({"--allow-run-as-root"});
  // Ranks share the cores that there are by their number of threads.
  if (options.numa_nodes > 1 && options.size % options.numa_nodes == 0) {
    add({"--map-by", "numa", "--bind-to", "numa"});
  } else {
    add({"--bind-to", "none"});
  }
  // Copies between processes need a right that containers lack.
  add({"--mca", "btl_vader_single_copy_mechanism", "none"});
  words.insert(words.end(), options.more.begin(), options.more.end());
  return words;
}

LaunchOptions launch_options(int size, const std::string& more) {
  return {size, ::geteuid() == 0, count_numa_nodes(), split_words(more)};
}

RankJob::RankJob(const RankJobOptions& options, std::span<const std::byte> setup)
    : options_(options) {
  PrivateListener listener;
  options_.words.insert(options_.words.end(), {"--socket", listener.path().string()});
  pid_ = spawn(options_.words);
  try {
    connect(listener);
    socket_.send(kFrameFirstFree, setup, options_.timeout);
    waiting_ = true;
    reader_ = std::thread([this] { read(); });
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !waiting_ || !error_.empty(); });
    if (!error_.empty()) throw Error("{}", error_);
  } catch (...) {
    ending_ = true;
    socket_.shut_down();
    if (reader_.joinable()) reader_.join();
    terminate();
    throw;
  }
}

void RankJob::connect(PrivateListener& listener) {
  const auto deadline = std::chrono::steady_clock::now() + options_.start_timeout;
  for (;;) {
    const int fd = listener.accept(kPoll * 5);
    if (fd >= 0) return socket_.open(fd);
    if (wait_exit(std::chrono::milliseconds(0))) {
      throw Error("the ranks did not start ({}: {}); the messages above say why", options_.words[0],
                  exit_text_);
    }
    if (std::chrono::steady_clock::now() > deadline) {
      throw Error("the ranks did not start within {} s: {}",
                  std::chrono::duration<double>(options_.start_timeout).count(),
                  fmt::join(options_.words, " "));
    }
  }
}

RankJob::~RankJob() {
  ending_ = true;
  if (alive_) {
    try {
      socket_.send(kFrameEnd, {}, options_.timeout);
    } catch (const Error&) {  // the job is gone
    }
    wait_exit(kEndTime);
  }
  socket_.shut_down();
  reader_.join();
  terminate();
}

void RankJob::request(std::uint64_t kind, std::span<const std::byte> bytes,
                      std::span<std::byte> result) {
  {
    const std::lock_guard lock(mutex_);
    if (!error_.empty()) throw Error("{}", error_);
    result_ = result;
    waiting_ = true;
  }
  try {
    socket_.send(kind, bytes, options_.timeout);
  } catch (const Error&) {
    socket_.shut_down();  // the reader sees it and says why
  }
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return !waiting_ || !error_.empty(); });
  if (!error_.empty()) throw Error("{}", error_);
}

// ---- reader thread

void RankJob::read() {
  try {
    for (;;) read_frame(socket_.receive_header(options_.timeout));
  } catch (const Error& error) {
    fail(error.what());
  }
}

void RankJob::read_frame(const FrameHeader& header) {
  constexpr std::uint64_t kMaxText = 1 << 20;
  if (header.kind == kFrameAlive) return;
  if (header.kind == kFrameError || header.kind == kFrameReady) {
    std::string text(std::min(header.bytes, kMaxText), '\0');
    socket_.receive(std::as_writable_bytes(std::span(text)), options_.timeout);
    if (header.kind == kFrameError) throw Error("{}", text);
    ready_text_ = text;
  } else {
    std::span<std::byte> target;
    {
      const std::lock_guard lock(mutex_);
      if (waiting_) target = result_;
    }
    if (header.kind != kFrameResult || header.bytes != target.size())
      throw Error("rank 0 sent {} bytes of kind {}", header.bytes, header.kind);
    socket_.receive(target, options_.timeout);
  }
  {
    const std::lock_guard lock(mutex_);
    waiting_ = false;
  }
  changed_.notify_all();
}

void RankJob::fail(const std::string& reason) {
  if (ending_) {  // by the constructor's or destructor's own hand
    const std::lock_guard lock(mutex_);
    error_ = reason;
    changed_.notify_all();
    return;
  }
  alive_ = false;
  {
    const std::lock_guard lock(mutex_);
    if (error_.empty()) error_ = "a rank has failed: " + reason;
  }
  changed_.notify_all();
  spdlog::critical("a rank has failed, all ranks are ended: {}", reason);
  socket_.shut_down();  // rank 0 ends, and with it the others, also where no signal gets
  terminate();
  spdlog::critical("the ranks have ended ({}: {})", options_.words[0], exit_text_);
}

bool RankJob::wait_exit(std::chrono::milliseconds time) {
  const auto deadline = std::chrono::steady_clock::now() + time;
  const std::lock_guard lock(exit_mutex_);
  while (exit_text_.empty()) {
    int status = 0;
    if (::waitpid(pid_, &status, WNOHANG) == pid_) {
      exit_text_ = exit_text(status);
      break;
    }
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::sleep_for(kPoll);
  }
  return true;
}

void RankJob::terminate() {
  if (wait_exit(kGrace)) return;
  ::kill(-pid_, SIGTERM);
  ::kill(-pid_, SIGCONT);  // else a stopped process would not see it
  if (wait_exit(kTerminateTime)) return;
  ::kill(-pid_, SIGKILL);
  wait_exit(kTerminateTime);
}

}  // namespace quern
