// See routes.h.
#include "quern/server/routes.h"

#include <algorithm>

#include "quern/server/sampling_plan.h"

namespace quern::server {
ApiContext::ApiContext(ChatService& chat_service, ApiOptions api_options)
    : service(chat_service),
      options(std::move(api_options)),
      metrics(std::make_shared<Metrics>(service.options().model_names.front(),
                                        service.options().max_model_len, options.cache_config)),
      responses(options.store_responses ? 1000 : 0, 64 << 20),
      created(unix_time()),
      pool(static_cast<std::size_t>(std::max(1, options.preparing_threads))),
      image_pool(static_cast<std::size_t>(std::max(1, options.image_threads))) {}

HttpResponse json_response(int status, const Json& json) {
  HttpResponse response;
  response.status = status;
  response.body = dump(json);
  return response;
}

HttpResponse error_response(const ApiError& error) {
  HttpResponse response = json_response(error.status(), error.body());
  if (error.status() == 429) response.headers.emplace_back("Retry-After", "1");
  return response;
}

HttpResponse event_stream_head() {
  HttpResponse head;
  head.content_type = "text/event-stream; charset=utf-8";
  head.headers = {{"Cache-Control", "no-cache"}};
  return head;
}

void check_content_type(const HttpRequest& request) {
  std::string type = lower_case(request.header("content-type"));
  type = type.substr(0, type.find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  if (type != "application/json") {
    throw ApiError(400, "Unsupported Media Type: Only 'application/json' is allowed", {},
                   "Bad Request");
  }
}

}  // namespace quern::server
