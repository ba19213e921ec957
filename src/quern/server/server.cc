// See server.h.
#include "quern/server/server.h"

#include <filesystem>
#include <string>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"

namespace quern::server {
namespace {

// What transformers knows of the tokenizer: tokenizer_config.json, with the chat template that may
// stand beside it.
Json read_tokenizer_info(const std::filesystem::path& dir) {
  constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  const std::filesystem::path path = dir / "tokenizer_config.json";
  Json info = parse_json(read_file(path, kMaxBytes), path.string());
  if (!info.is_object()) throw Error("{}: expected an object", path.string());
  const std::filesystem::path beside = dir / "chat_template.jinja";
  if (std::filesystem::exists(beside)) info["chat_template"] = read_file(beside, kMaxBytes);
  return info;
}

}  // namespace

Server::Server(ServerOptions options) {
  http_ = std::make_unique<HttpServer>(
      options.http, [this](HttpExchange& exchange) { return front_->handle(exchange); });
  front_ = std::make_unique<Front>(
      std::move(options.front), [this](HttpExchange& exchange) { return api_->handle(exchange); });
  options.api.root = options.model.engine.model_dir.string();
  chat_ = std::make_unique<ChatEngine>(std::move(options.model));
  options.api.fingerprint = chat_->fingerprint();
  const engine::Engine& engine = chat_->engine();
  if (options.tokenizer_info) {
    options.api.tokenizer_info = read_tokenizer_info(engine.options().tokenizer_dir);
  }
  options.api.cache_config = {
      {"block_size", std::to_string(kernels::kBlockTokens)},
      {"num_gpu_blocks", std::to_string(engine.num_kv_blocks())},
      {"enable_prefix_caching", engine.options().enable_prefix_caching ? "True" : "False"},
      {"cache_dtype", "auto"}};
  api_ = std::make_unique<Api>(chat_->service(), std::move(options.api));
}

// Outputs of the engine and the API's pools post to the HTTP server's executor, so they are quiet
// before that goes; and the handlers that are suspended there use the API until they go.
Server::~Server() {
  chat_->engine().drain(0);
  api_->stop();
  http_.reset();
  api_.reset();
  chat_.reset();
}

void Server::run(bool handle_signals) {
  http_->run(handle_signals);
  chat_->engine().drain(0);
}

}  // namespace quern::server
