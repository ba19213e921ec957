// See remote_runner.h.
#include "quern/engine/remote_runner.h"

#include <filesystem>

#include "quern/base/json.h"
#include "quern/base/log.h"
#include "quern/distributed/communicator.h"
#include "quern/engine/rank_worker.h"
#include "quern/engine/step_message.h"
#include "quern/model/sharding.h"

namespace quern::engine {
namespace {

// Pixels of one message: what a step shows may be more than messages and MPI carry.
constexpr std::size_t kMaxPixelBytes = std::size_t{1} << 30;

// How a rank is started; RankJob adds where it finds this process.
std::vector<std::string> rank_words(const ParallelOptions& options) {
  std::vector<std::string> words;
  if (!options.launched)
    words = mpirun_words(launch_options(options.tensor_parallel_size, options.mpirun_args));
  words.push_back(options.program.empty() ? std::filesystem::read_symlink("/proc/self/exe").string()
                                          : options.program.string());
  const auto level = spdlog::level::to_string_view(spdlog::get_level());
  words.insert(words.end(), {"rank", "--timeout", std::to_string(options.timeout_seconds),
                             "--log-level", std::string(level.data(), level.size())});
  return words;
}

}  // namespace

RemoteRunner::RemoteRunner(const EngineOptions& options, const ModelConfig& config, bool images)
    : vocab_size_(static_cast<int>(config.text_config.vocab_size)),
      feature_size_(images ? static_cast<std::size_t>(config.text_config.hidden_size) : 0) {
  const ParallelOptions& parallel = options.parallel;
  model::check_sharding(config,
                        {0, parallel.tensor_parallel_size, parallel.enable_expert_parallel,
                         parallel.encoder_data_parallel},
                        images);
  if (!mpi_available()) {
    throw Error(
        "tensor parallel size {}: this build has no MPI; install libopenmpi-dev and openmpi-bin, "
        "then configure and build again",
        parallel.tensor_parallel_size);
  }
  spdlog::info("starting {} ranks", parallel.tensor_parallel_size);
  const std::string setup = rank_setup(options).dump();
  job_ = std::make_unique<RankJob>(
      RankJobOptions{rank_words(parallel), std::chrono::seconds(parallel.timeout_seconds)},
      std::as_bytes(std::span(setup)));
  const Json ready = parse_json(job_->ready_text(), "answer of rank 0");
  num_blocks_ = ready.at("num_blocks").get<int>();
  max_model_len_ = ready.at("max_model_len").get<int>();
}

void RemoteRunner::encode(std::span<const vision::ImagePatches* const> images,
                          std::span<float> features) {
  while (!images.empty()) {
    const auto some = images.first(images_within(images, kMaxPixelBytes));
    std::size_t rows = 0;
    for (const vision::ImagePatches* image : some)
      rows += static_cast<std::size_t>(image->num_tokens);
    const std::span<float> target = features.first(rows * feature_size_);
    write_images(some, message_);
    job_->request(kEncodeMessage, message_, std::as_writable_bytes(target));
    images = images.subspan(some.size());
    features = features.subspan(target.size());
  }
}

void RemoteRunner::run(std::span<const model::SequenceChunk> chunks, std::span<float> logits) {
  write_run(chunks, message_);
  job_->request(kRunMessage, message_, std::as_writable_bytes(logits));
}

void RemoteRunner::logits_of(std::span<const std::int32_t> tokens, std::span<float> logits) {
  write_tokens(tokens, message_);
  job_->request(kLogitsMessage, message_, std::as_writable_bytes(logits));
}

}  // namespace quern::engine
