// quern chat DIR: a conversation in the terminal, or over pipes (one line a turn).
// Must never lose the conversation to a failed turn.
// Proved by tests/apps/program_test.cc.
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "command.h"
#include "model_options.h"
#include "parallel.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "terminal.h"

namespace quern::cli {
namespace {

constexpr std::string_view kImage = "/image ";

// Ctrl-C during an answer ends that answer only.
std::atomic<bool> interrupted{false};
void on_interrupt(int) { interrupted = true; }

class ChatCommand {
 public:
  explicit ChatCommand(CLI::App& app) : app_(app), model_(app), sampling_(app) {
    app.add_option("--system", system_, "System message");
  }

  void run() {
    refuse_unknown(app_);
    spdlog::set_level(spdlog::level::warn);
    server::ChatEngineOptions options = model_.resolve(launched_rank());
    options.engine.log_stats = false;
    options.chat.parse_reasoning = true;
    allow_local_images(options);
    server::ChatEngine engine(std::move(options));
    const bool terminal = ::isatty(STDIN_FILENO) == 1;
    if (terminal) {
      std::fputs("/image FILE shows a picture with the next text, /reset begins anew, /exit ends\n",
                 stderr);
    }
    reset();
    std::string line;
    while (prompt(terminal), std::getline(std::cin, line)) {
      if (line == "/exit" || line == "/quit") return;
      if (line == "/reset") {
        reset();
      } else if (line.starts_with(kImage)) {
        images_.push_back(line.substr(kImage.size()));
      } else if (line.starts_with('/')) {
        std::fprintf(stderr, "unknown command %s (/image FILE, /reset, /exit)\n", line.c_str());
      } else if (!line.empty()) {
        turn(engine.service(), line);
      }
    }
  }

 private:
  static void prompt(bool terminal) {
    if (terminal) std::fputs("> ", stderr);
  }

  void reset() {
    messages_ = Json::array();
    images_.clear();
    if (!system_.empty()) messages_.push_back({{"role", "system"}, {"content", system_}});
  }

  // A turn that fails is taken back.
  void turn(server::ChatService& service, const std::string& text) {
    const std::size_t known = messages_.size();
    server::ChatRequest request;
    sampling_.apply(request);
    interrupted = false;
    const auto before = std::signal(SIGINT, on_interrupt);
    try {
      messages_.push_back(user_message(text, std::exchange(images_, {})));
      request.messages = messages_;
      const server::ChatCompletion completion = print_answer(service, request, &interrupted);
      const server::ChatChoice& choice = completion.choices.front();
      Json answer = {{"role", "assistant"}, {"content", choice.content}};
      if (!choice.reasoning.empty()) answer["reasoning"] = choice.reasoning;
      messages_.push_back(std::move(answer));
    } catch (const Error& error) {
      std::fprintf(stderr, "%s\n", error.what());
      if (messages_.size() > known) messages_.erase(known);
    }
    std::signal(SIGINT, before);
  }

  CLI::App& app_;
  ModelOptions model_;
  SamplingOptions sampling_;
  std::string system_;
  Json messages_;
  std::vector<std::string> images_;  // for the next turn
};

}  // namespace

void add_chat(CLI::App& app) {
  CLI::App* command = app.add_subcommand("chat", "Talk with a model in the terminal");
  prepare(*command);
  const auto state = std::make_shared<ChatCommand>(*command);
  command->callback([state] { state->run(); });
}

}  // namespace quern::cli
