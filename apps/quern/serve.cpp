// quern serve DIR: the OpenAI-compatible server, with the options of `vllm serve`.
// Must never hold logic of the server: see src/quern/server.
// Proved by tests/apps/program_test.cc.
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iterator>

#include "command.h"
#include "model_options.h"
#include "parallel.h"
#include "quern/base/env.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "quern/base/version.h"
#include "quern/server/server.h"

namespace quern::cli {
namespace {

constexpr AcceptedOption kAcceptedByServe[] = {
    {"--enable-log-requests", false, "the access log has a line a request"},
    {"--disable-log-requests", false, "bodies of requests are not logged"},
    {"--enable-log-outputs", false, "answers are not logged"},
    {"--enable-log-deltas", false, "answers are not logged"},
    {"--max-log-len", true, "prompts are not logged"},
    {"--log-error-stack", false, "errors carry their context instead"},
    {"--log-config-file", true, "the log goes to stderr"},
    {"--api-server-count", true, "one thread serves all connections"},
    {"--h11-max-header-count", true, "the bytes of a header are limited instead"},
    {"--enable-server-load-tracking", false, "/load always counts"},
    {"--enable-per-request-metrics", false, "/metrics has them for all requests together"},
    {"--enable-ssl-refresh", false, "certificates are read at the start"},
    {"--fingerprint-mode", true, "/v1/models shows the fingerprint", "full, hash, custom, none"},
    {"--middleware", true, "it would be Python code, and none is run here", nullptr, true},
    {"--tool-parser-plugin", true, "it would be Python code, and none is run here", nullptr, true},
    {"--tool-server", true, "tools run at the client", nullptr, true},
    {"--headless", false, "a process without API serves nobody here", nullptr, true},
};

// A JSON list of strings, as the peer takes them.
std::vector<std::string> string_list(const std::string& text, const char* option) {
  const Json list = Json::parse(text, nullptr, false);
  if (list.is_array() &&
      std::all_of(list.begin(), list.end(), [](const Json& item) { return item.is_string(); })) {
    return list.get<std::vector<std::string>>();
  }
  throw UsageError("{}: a JSON list of strings is expected, got {}", option, text);
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at <= text.size();) {
    const std::size_t end = std::min(text.find(',', at), text.size());
    if (end > at) parts.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return parts;
}

class ServeCommand {
 public:
  explicit ServeCommand(CLI::App& app) : app_(app), model_(app) {
    const auto option = [&app](const char* name, auto& target, const char* help) {
      return app.add_option(both_spellings(name), target, help)->group("Server");
    };
    const auto flag = [&app](const char* name, bool& target, const char* help) {
      return app.add_flag(with_opposite(name), target, help)->group("Server");
    };
    option("--host", http_.host, "Address to listen on (all)");
    option("--port", http_.port, "Port (8000); 0 = a free one, which is printed")
        ->check(CLI::Range(0, 65535));
    option("--uds", http_.uds, "Unix socket instead of host and port");
    option("--api-key", api_keys_, "Keys that clients may send; also QUERN_API_KEY, VLLM_API_KEY")
        ->expected(-1);
    option("--max-body-mb", max_body_mb_, "Largest request body in MiB (64)")
        ->check(CLI::Range(1, 4096));
    option("--max-connections", http_.max_connections, "Connections served at once (1024)")
        ->check(CLI::PositiveNumber);
    option("--h11-max-incomplete-event-size", header_bytes_, "Largest request header in bytes")
        ->check(CLI::Range(1024, 16 << 20));
    option("--shutdown-timeout", drain_seconds_, "Seconds for running requests at the end (30)")
        ->check(CLI::NonNegativeNumber);
    flag("--enable-prompt-tokens-details", prompt_details_, "Cached prompt tokens in usage");
    flag("--enable-force-include-usage", force_usage_, "Usage at the end of every stream");
    option("--allowed-origins", origins_, "CORS: JSON list of origins ([\"*\"])");
    option("--allowed-methods", methods_, "CORS: JSON list of methods ([\"*\"])");
    option("--allowed-headers", headers_, "CORS: JSON list of headers ([\"*\"])");
    flag("--allow-credentials", front_.cors.credentials, "CORS: cookies and the like");
    flag("--enable-request-id-headers", front_.request_id_headers,
         "Answers carry X-Request-Id, the client's or a new one");
    option("--uvicorn-log-level", log_level_, "critical, error, warning, info, debug or trace");
    flag("--disable-uvicorn-access-log", no_access_log_, "No line a request");
    option("--disable-access-log-for-endpoints", quiet_paths_,
           "Paths without a line, for example /health,/metrics");
    flag("--enable-tokenizer-info-endpoint", tokenizer_info_, "GET /tokenizer_info");
    flag("--disable-fastapi-docs", no_docs_, "No /openapi.json");
    option("--root-path", root_path_, "Prefix of every path, behind a proxy");
    option("--ssl-certfile", http_.tls.certfile,
           "TLS: PEM file with the server's certificate chain");
    option("--ssl-keyfile", http_.tls.keyfile, "TLS: PEM file with its key");
    option("--ssl-ca-certs", http_.tls.ca_certs,
           "TLS: PEM file that clients' certificates go back to");
    option("--ssl-cert-reqs", http_.tls.cert_reqs,
           "TLS: certificates of clients, 0 = none, 1 = optional, 2 = required")
        ->check(CLI::Range(0, 2));
    option("--ssl-ciphers", http_.tls.ciphers, "TLS: OpenSSL's list of ciphers");
    accepted_ = std::make_unique<AcceptedOptions>(app, std::begin(kAcceptedByServe),
                                                  std::end(kAcceptedByServe));
  }

  void run() {
    refuse_unknown(app_);
    init_logging(log_level_);
    accepted_->log();
    server::ServerOptions options;
    options.model = model_.resolve(launched_rank());
    options.http = http_;
    options.http.max_body_bytes = static_cast<std::size_t>(max_body_mb_) << 20;
    options.http.max_header_bytes = static_cast<std::size_t>(header_bytes_);
    options.http.drain_timeout =
        std::chrono::milliseconds(static_cast<long>(drain_seconds_ * 1000));
    options.api.api_keys = api_keys_;
    for (const char* name : {"QUERN_API_KEY", "VLLM_API_KEY"}) {
      const auto key = environment(name);
      if (key && !key->empty() && api_keys_.empty()) options.api.api_keys.push_back(*key);
    }
    options.api.version = version();
    options.api.writer.prompt_tokens_details = prompt_details_;
    options.api.force_include_usage = force_usage_;

    options.api.store_responses = environment("VLLM_ENABLE_RESPONSES_API_STORE") == "1";
    options.api.root_path = root_path();
    options.api.disable_docs = no_docs_;
    options.tokenizer_info = tokenizer_info_;
    options.front = front_;
    options.front.cors.origins = string_list(origins_, "--allowed-origins");
    options.front.cors.methods = string_list(methods_, "--allowed-methods");
    options.front.cors.headers = string_list(headers_, "--allowed-headers");
    options.front.access_log = !no_access_log_;
    options.front.quiet_paths = split(quiet_paths_);

    server::Server server(std::move(options));
    spdlog::info("serving {} (max_model_len {})",
                 server.chat().service().options().model_names.front(),
                 server.chat().engine().max_model_len());
    std::printf("listening on %s\n", server.address().c_str());
    std::fflush(stdout);
    server.run(true);
    spdlog::info("ended");
  }

 private:
  std::string root_path() const {
    if (!root_path_.empty() && (root_path_.front() != '/' || root_path_.back() == '/')) {
      throw UsageError("--root-path: '/PREFIX' is expected, got '{}'", root_path_);
    }
    return root_path_;
  }

  CLI::App& app_;
  ModelOptions model_;
  server::FrontOptions front_;
  std::string origins_ = R"(["*"])", methods_ = R"(["*"])", headers_ = R"(["*"])";
  std::string log_level_ = "info";
  std::string quiet_paths_, root_path_;
  bool no_access_log_ = false;
  bool no_docs_ = false;
  bool tokenizer_info_ = false;
  server::HttpOptions http_;
  std::vector<std::string> api_keys_;
  int max_body_mb_ = 64;
  int header_bytes_ = 64 << 10;
  double drain_seconds_ = 30;
  bool prompt_details_ = false;
  bool force_usage_ = false;
  std::unique_ptr<AcceptedOptions> accepted_;
};

}  // namespace

void add_serve(CLI::App& app) {
  CLI::App* command = app.add_subcommand("serve", "OpenAI-compatible server for a checkpoint");
  prepare(*command);
  const auto state = std::make_shared<ServeCommand>(*command);
  command->callback([state] { state->run(); });
}

}  // namespace quern::cli
