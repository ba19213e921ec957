// See rank_worker.h.
#include "quern/engine/rank_worker.h"

#include <sys/prctl.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <array>
#include <climits>
#include <csignal>
#include <cstring>
#include <optional>
#include <thread>
#include <vector>

#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/distributed/communicator.h"
#include "quern/distributed/rank_link.h"
#include "quern/engine/model_host.h"
#include "quern/engine/step_message.h"
#include "quern/kernels/factory.h"

namespace quern::engine {
namespace {

constexpr int kStartSeconds = 120;         // for MPI to find all ranks
constexpr std::size_t kErrorBytes = 1024;  // of a rank's message at the start

int cores() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

// How many ranks run on this host.
int count_on_host(Communicator& communicator) {
  std::array<char, HOST_NAME_MAX + 1> name{};
  ::gethostname(name.data(), name.size() - 1);
  const XXH64_hash_t mine = XXH3_64bits(name.data(), std::strlen(name.data()));
  std::vector<XXH64_hash_t> all(static_cast<std::size_t>(communicator.size()));
  communicator.all_gather(std::as_bytes(std::span(&mine, 1)),
                          std::as_writable_bytes(std::span(all)));
  return static_cast<int>(std::ranges::count(all, mine));
}

class RankWorker {
 public:
  RankWorker(Communicator& communicator, RankLink* link, Milliseconds timeout)
      : communicator_(communicator), link_(link), idle_period_(life_period(timeout)) {}

  void serve() {
    if (!start()) return;
    for (;;) {
      const FrameHeader message = next_message();
      switch (message.kind) {
        case kRunMessage:
          run();
          break;
        case kLogitsMessage:
          logits_of();
          break;
        case kEncodeMessage:
          encode();
          break;
        case kIdleMessage:
          communicator_.barrier();
          break;
        case kFrameEnd:
          return;
        default:
          throw Error("a message of kind {} is unknown", message.kind);
      }
    }
  }

 private:
  bool first() const { return communicator_.rank() == 0; }

  // Rank 0's next message on all ranks, its bytes in bytes_.
  FrameHeader next_message() {
    FrameHeader header{kIdleMessage, 0};
    if (first()) header = link_->receive(idle_period_, bytes_).value_or(header);
    communicator_.broadcast(0, std::as_writable_bytes(std::span(&header, 1)));
    bytes_.resize(header.bytes);
    if (!bytes_.empty()) communicator_.broadcast(0, bytes_);
    return header;
  }

  // Loads the model; false when a rank cannot, and rank 0 has told the server so.
  bool start() {
    FrameHeader message;
    do {
      message = next_message();
    } while (message.kind == kIdleMessage);
    if (message.kind == kFrameEnd) return false;
    QUERN_CHECK(message.kind == kSetupMessage);
    const std::string text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    const EngineOptions options = read_rank_setup(parse_json(text, "setup of the ranks"));
    communicator_.set_timeout(std::chrono::seconds(options.parallel.timeout_seconds));
    const int on_host = count_on_host(communicator_);
    if (!agree([&] { load(options, on_host); })) return false;
    // Every rank computes norms and routing for itself.
    const bool same = communicator_.agree(kernels::cpu_arithmetic(host_->has_vision()));
    if (!agree([&] { require_same_cpu(same); })) return false;
    // The same cache everywhere.
    std::int64_t blocks = host_->possible_blocks();
    communicator_.all_reduce(Reduction::kMin, std::span(&blocks, 1));
    if (!agree([&] { host_->open_cache(static_cast<int>(blocks)); })) return false;
    if (first()) {
      const Json ready{{"num_blocks", host_->num_blocks()},
                       {"max_model_len", host_->max_model_len()}};
      link_->send_text(kFrameReady, ready.dump());
    }
    return true;
  }

  void load(EngineOptions options, int on_host) {
    if (options.num_threads == 0) options.num_threads = std::max(1, cores() / on_host);
    const ParallelOptions& parallel = options.parallel;
    if (parallel.tensor_parallel_size != communicator_.size()) {
      throw Error("tensor parallel size {}, but {} ranks were started",
                  parallel.tensor_parallel_size, communicator_.size());
    }
    checkpoint_.emplace(Checkpoint::open(options.model_dir));
    config_ = parse_model_config(checkpoint_->config());
    host_.emplace(options, *checkpoint_, config_,
                  model::Sharding{communicator_.rank(), communicator_.size(),
                                  parallel.enable_expert_parallel, parallel.encoder_data_parallel},
                  &communicator_, on_host);
    vocab_size_ = static_cast<std::size_t>(config_.text_config.vocab_size);
    if (first()) {
      spdlog::info("{} ranks, {} on this host, {} threads each", communicator_.size(), on_host,
                   options.num_threads);
    }
  }

  static void require_same_cpu(bool same) {
    if (same) return;
    throw Error("the ranks run on different kinds of CPU: their results would not fit together");
  }

  // Runs fn on every rank; false when it fails on one, whose message goes to the server.
  template <typename Fn>
  bool agree(Fn&& fn) {
    std::array<char, kErrorBytes> mine{};
    try {
      fn();
    } catch (const std::exception& error) {
      const std::string text = error.what();
      std::copy_n(text.begin(), std::min(text.size(), mine.size() - 1), mine.begin());
    }
    std::vector<char> all(mine.size() * static_cast<std::size_t>(communicator_.size()));
    communicator_.all_gather(std::as_bytes(std::span(mine)),
                             std::as_writable_bytes(std::span(all)));
    for (int rank = 0; rank < communicator_.size(); ++rank) {
      const char* text = all.data() + static_cast<std::size_t>(rank) * mine.size();
      if (*text == '\0') continue;
      if (first()) link_->send_text(kFrameError, fmt::format("rank {}: {}", rank, text));
      return false;
    }
    return true;
  }

  void answer(std::span<const float> values) {
    if (first()) link_->send(kFrameResult, std::as_bytes(values));
  }
  // Room for rank 0's answer.
  std::span<float> room(std::size_t rows, std::size_t cols) {
    if (!first()) return {};
    result_.resize(rows * cols);
    return result_;
  }

  void run() {
    read_run(bytes_, plan_);
    const std::span<float> logits = room(plan_.logit_rows, vocab_size_);
    host_->runner().run(plan_.chunks, logits);
    answer(logits);
  }

  void logits_of() {
    const auto tokens = read_tokens(bytes_);
    const std::span<float> logits = room(tokens.size(), vocab_size_);
    host_->runner().logits_of(tokens, logits);
    answer(logits);
  }

  void encode() {
    const std::vector<vision::ImagePatches> images = read_images(bytes_);
    std::vector<const vision::ImagePatches*> pointers;
    std::size_t rows = 0;
    for (const vision::ImagePatches& image : images) {
      pointers.push_back(&image);
      rows += static_cast<std::size_t>(image.num_tokens);
    }
    std::vector<float> features(rows * host_->runner().feature_size());
    host_->runner().encode(pointers, features);
    answer(features);
  }

  Communicator& communicator_;
  RankLink* link_;  // rank 0's
  // While nothing is asked the ranks look for one another so often.
  Milliseconds idle_period_;
  std::optional<Checkpoint> checkpoint_;
  ModelConfig config_;
  std::optional<ModelHost> host_;
  std::size_t vocab_size_ = 0;
  std::vector<std::byte> bytes_;
  RunPlan plan_;
  std::vector<float> result_;
};

}  // namespace

Json rank_setup(const EngineOptions& options) {
  const ImageOptions& images = options.images;
  const ParallelOptions& parallel = options.parallel;
  Json setup{{"model_dir", std::filesystem::absolute(options.model_dir).string()},
             {"max_model_len", options.max_model_len},
             {"max_num_batched_tokens", options.max_num_batched_tokens},
             {"max_num_seqs", options.max_num_seqs},
             {"num_kv_blocks", options.num_kv_blocks},
             {"kv_cache_bytes", options.kv_cache_bytes},
             {"num_threads", options.num_threads},
             {"moe_backend", static_cast<int>(options.moe_backend)},
             {"language_model_only", images.language_model_only},
             {"tensor_parallel_size", parallel.tensor_parallel_size},
             {"enable_expert_parallel", parallel.enable_expert_parallel},
             {"encoder_data_parallel", parallel.encoder_data_parallel},
             {"timeout_seconds", parallel.timeout_seconds}};
  if (images.min_pixels) setup["min_pixels"] = *images.min_pixels;
  if (images.max_pixels) setup["max_pixels"] = *images.max_pixels;
  return setup;
}

EngineOptions read_rank_setup(const Json& setup) {
  EngineOptions options;
  ImageOptions& images = options.images;
  ParallelOptions& parallel = options.parallel;
  options.model_dir = setup.at("model_dir").get<std::string>();
  setup.at("max_model_len").get_to(options.max_model_len);
  setup.at("max_num_batched_tokens").get_to(options.max_num_batched_tokens);
  setup.at("max_num_seqs").get_to(options.max_num_seqs);
  setup.at("num_kv_blocks").get_to(options.num_kv_blocks);
  setup.at("kv_cache_bytes").get_to(options.kv_cache_bytes);
  setup.at("num_threads").get_to(options.num_threads);
  options.moe_backend = static_cast<kernels::MoeBackend>(setup.at("moe_backend").get<int>());
  setup.at("language_model_only").get_to(images.language_model_only);
  if (setup.contains("min_pixels")) images.min_pixels = setup.at("min_pixels").get<std::int64_t>();
  if (setup.contains("max_pixels")) images.max_pixels = setup.at("max_pixels").get<std::int64_t>();
  setup.at("tensor_parallel_size").get_to(parallel.tensor_parallel_size);
  setup.at("enable_expert_parallel").get_to(parallel.enable_expert_parallel);
  setup.at("encoder_data_parallel").get_to(parallel.encoder_data_parallel);
  setup.at("timeout_seconds").get_to(parallel.timeout_seconds);
  return options;
}

int run_rank(const RankPlace& place, const std::filesystem::path& socket, int timeout_seconds) {
  // The process that started this one is mpirun's, or the server; in a container it may be process
  // 1, so that only a change tells that it ended before the signal was asked for.
  const pid_t parent = ::getppid();
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) {
    spdlog::error("rank {} ends: process {}, which started it, has ended", place.rank, parent);
    return 1;
  }
  std::signal(SIGPIPE, SIG_IGN);
  const std::chrono::seconds timeout(timeout_seconds);
  std::optional<RankLink> link;
  if (place.rank == 0) {
    if (socket.empty()) throw Error("rank 0 has no server: start quern serve, chat or generate");
    link.emplace(socket, timeout);
  } else {
    spdlog::set_level(spdlog::level::warn);
  }
  // MPI waits for all ranks without a deadline of its own.
  ::alarm(static_cast<unsigned>(std::max(timeout_seconds, kStartSeconds)));
  const MpiOptions mpi{.timeout = timeout, .spin = place.size <= cores()};
  const auto communicator = make_mpi_communicator(mpi, place.size);
  ::alarm(0);
  try {
    RankWorker(*communicator, link ? &*link : nullptr, timeout).serve();
    communicator->finish();
    return 0;
  } catch (const std::exception& error) {
    if (link) {
      try {
        link->send_text(kFrameError, error.what());
      } catch (const Error&) {  // the server is gone: that is the error
      }
    }
    communicator->abort(error.what());
  }
  return 1;
}

}  // namespace quern::engine
