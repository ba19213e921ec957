// See terminal.h.
#include "terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <utility>

#include "quern/base/error.h"

namespace quern::cli {
namespace {

constexpr const char* kDim = "\033[2m";
constexpr const char* kPlain = "\033[0m";

std::string image_url(const std::string& image) {
  for (const char* scheme : {"data:", "http://", "https://"}) {
    if (image.starts_with(scheme)) return image;
  }
  if (::access(image.c_str(), R_OK) != 0) throw_errno(fmt::format("cannot read '{}'", image));
  std::string url = "file://";
  for (const char c : std::filesystem::absolute(image).string()) {
    if (c == '%' || c == '?' || c == '#') {
      url += fmt::format("%{:02X}", static_cast<unsigned char>(c));
    } else {
      url += c;
    }
  }
  return url;
}

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

SamplingOptions::SamplingOptions(CLI::App& app) {
  const auto option = [&app](const char* name, auto& target, const char* help) {
    app.add_option(both_spellings(name), target, help)->group("Sampling");
  };
  option("--max-tokens", max_tokens_, "Most tokens of an answer");
  option("--temperature", temperature_, "0 = the most probable token");
  option("--top-p", top_p_, "Nucleus sampling");
  option("--top-k", top_k_, "The k most probable tokens");
  option("--min-p", min_p_, "Least probability relative to the best token");
  option("--repetition-penalty", repetition_penalty_, "1 = none");
  option("--sampling-seed", request_seed_, "Same seed, same answer");
  option("--stop", stop_, "Strings that end the answer");
}

void SamplingOptions::apply(server::ChatRequest& request) const {
  request.max_tokens = max_tokens_;
  request.temperature = temperature_;
  request.top_p = top_p_;
  request.top_k = top_k_;
  request.min_p = min_p_;
  request.repetition_penalty = repetition_penalty_;
  request.seed = request_seed_;
  request.stop = stop_;
}

Json user_message(const std::string& text, const std::vector<std::string>& images) {
  if (images.empty()) return {{"role", "user"}, {"content", text}};
  Json parts = Json::array();
  for (const std::string& image : images) {
    parts.push_back({{"type", "image_url"}, {"image_url", {{"url", image_url(image)}}}});
  }
  parts.push_back({{"type", "text"}, {"text", text}});
  return {{"role", "user"}, {"content", std::move(parts)}};
}

void allow_local_images(server::ChatEngineOptions& options) {
  if (options.media.allowed_local_media_path.empty()) options.media.allowed_local_media_path = "/";
}

server::ChatCompletion print_answer(server::ChatService& service,
                                    const server::ChatRequest& request,
                                    const std::atomic<bool>* stop) {
  const bool terminal = ::isatty(STDOUT_FILENO) == 1;
  bool dimmed = false;
  server::ChatCompletion completion = service.complete(
      request,
      [&](const server::ChatDelta& delta) {
        if (terminal && !delta.reasoning.empty()) {
          if (!dimmed) put(kDim);
          dimmed = true;
          put(delta.reasoning);
        }
        if (delta.content.empty()) return;
        if (dimmed) put(std::string(kPlain) + "\n");
        dimmed = false;
        put(delta.content);
      },
      stop);
  if (dimmed) put(kPlain);
  for (const server::ToolCallDelta& call : completion.choices.front().tool_calls) {
    put("\n" + Json({{"tool", call.name}, {"arguments", call.arguments}}).dump());
  }
  put("\n");
  return completion;
}

}  // namespace quern::cli
