// See api.h.
#include "quern/server/api.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "quern/server/media_loader.h"
#include "quern/server/openapi.h"
#include "quern/server/routes.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;

// The time does not depend on where the two differ.
bool same_key(std::string_view a, std::string_view b) {
  if (a.size() != b.size()) return false;
  unsigned char difference = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference = static_cast<unsigned char>(difference | (a[i] ^ b[i]));
  }
  return difference == 0;
}

bool matches(std::string_view pattern, std::string_view path) {
  constexpr std::string_view kId = "{id}";
  const std::size_t place = pattern.find(kId);
  if (place == std::string_view::npos) return pattern == path;
  if (!path.starts_with(pattern.substr(0, place))) return false;
  const std::string_view rest = path.substr(place);
  const std::size_t end = std::min(rest.find('/'), rest.size());
  return end > 0 && rest.substr(end) == pattern.substr(place + kId.size());
}

std::vector<Route> all_routes(const ApiOptions& options) {
  std::vector<Route> routes;
  for (const auto& family : {system_routes(), chat_routes(), completion_routes(), tokenize_routes(),
                             responses_routes(), messages_routes()}) {
    std::copy(family.begin(), family.end(), std::back_inserter(routes));
  }
  if (options.tokenizer_info.is_null()) {
    std::erase_if(routes, [](const Route& route) { return route.path == "/tokenizer_info"; });
  }
  return routes;
}

}  // namespace

struct Api::Impl {
  Impl(ChatService& service, ApiOptions options)
      : context(service, std::move(options)),
        routes(all_routes(context.options)),
        description(dump(openapi_json(routes, context.options.version))) {}

  asio::awaitable<void> handle(HttpExchange& exchange) {
    const HttpRequest& request = exchange.request();
    const std::string_view path = without_root(request.path);
    const auto route = std::find_if(routes.begin(), routes.end(),
                                    [&](const Route& r) { return matches(r.path, path); });
    HttpResponse refusal;  // or the description
    if (path == "/openapi.json" && request.method == "GET" && !context.options.disable_docs) {
      refusal.body = description;
    } else if (!authorized(request, path)) {
      refusal = json_response(401, {{"error", "Unauthorized"}});
    } else if (route == routes.end()) {
      refusal = json_response(404, {{"detail", "Not Found"}});
    } else if (std::find(route->methods.begin(), route->methods.end(), request.method) ==
               route->methods.end()) {
      refusal = json_response(405, {{"detail", "Method Not Allowed"}});
      refusal.headers.emplace_back("Allow", std::string(route->methods.front()));
    } else {
      try {
        co_await route->handler(context, exchange);
        co_return;
      } catch (const ApiError& error) {
        refusal = error_response(error);
      }
    }
    co_await exchange.respond(std::move(refusal));
  }

  // A proxy may or may not have cut the prefix off.
  std::string_view without_root(std::string_view path) const {
    const std::string& root = context.options.root_path;
    if (!root.empty() && path.starts_with(root + "/")) path.remove_prefix(root.size());
    return path;
  }

  // Protected are the paths that vLLM protects.
  bool authorized(const HttpRequest& request, std::string_view path) const {
    const std::vector<std::string>& keys = context.options.api_keys;
    if (keys.empty() || !path.starts_with("/v1")) return true;
    std::string_view key = request.header("x-api-key");
    const std::string_view header = request.header("authorization");
    constexpr std::string_view kScheme = "bearer ";
    if (header.size() > kScheme.size() && lower_case(header.substr(0, kScheme.size())) == kScheme) {
      key = header.substr(kScheme.size());
    }
    return std::any_of(keys.begin(), keys.end(),
                       [&](const std::string& known) { return same_key(known, key); });
  }

  ApiContext context;
  const std::vector<Route> routes;
  const std::string description;  // /openapi.json
};

Api::Api(ChatService& service, ApiOptions options)
    : impl_(std::make_unique<Impl>(service, std::move(options))) {}

Api::~Api() { stop(); }

void Api::stop() {
  ApiContext& context = impl_->context;
  if (context.service.media() != nullptr) context.service.media()->stop();
  context.pool.join();
  context.image_pool.join();
  context.grammar_pool.join();
}

asio::awaitable<void> Api::handle(HttpExchange& exchange) { return impl_->handle(exchange); }

}  // namespace quern::server
