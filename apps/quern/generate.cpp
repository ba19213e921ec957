// quern generate DIR -p TEXT: one answer to stdout.
// Must never print anything else there.
// Proved by tests/apps/program_test.cc.
#include <string>
#include <vector>

#include "command.h"
#include "model_options.h"
#include "parallel.h"
#include "quern/base/error.h"
#include "quern/base/log.h"
#include "terminal.h"

namespace quern::cli {
namespace {

// Passes the prompt through as it is: no roles, no markers.
constexpr const char* kRawTemplate = "{{- messages[0].content -}}";

class GenerateCommand {
 public:
  explicit GenerateCommand(CLI::App& app) : app_(app), model_(app), sampling_(app) {
    app.add_option("-p,--prompt", prompt_, "The text to answer, or with --raw to continue")
        ->required();
    app.add_option("--system", system_, "System message");
    app.add_option("--image", images_,
                   "A picture before the text: a file or a URL; several times for several")
        ->expected(1)
        ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
    app.add_flag("--raw", raw_, "No chat template: the model continues the text");
  }

  void run() {
    refuse_unknown(app_);
    if (raw_ && !system_.empty()) throw UsageError("--system has no meaning with --raw");
    spdlog::set_level(spdlog::level::warn);
    server::ChatEngineOptions options = model_.resolve(launched_rank());
    options.engine.log_stats = false;
    options.chat.parse_reasoning = !raw_;
    if (raw_) options.chat_template = kRawTemplate;
    allow_local_images(options);
    server::ChatEngine engine(std::move(options));
    server::ChatRequest request;
    request.messages = Json::array();
    if (!system_.empty()) request.messages.push_back({{"role", "system"}, {"content", system_}});
    request.messages.push_back(user_message(prompt_, images_));
    sampling_.apply(request);
    print_answer(engine.service(), request);
  }

 private:
  CLI::App& app_;
  ModelOptions model_;
  SamplingOptions sampling_;
  std::string prompt_;
  std::string system_;
  std::vector<std::string> images_;
  bool raw_ = false;
};

}  // namespace

void add_generate(CLI::App& app) {
  CLI::App* command = app.add_subcommand("generate", "One answer of a model, printed as it comes");
  prepare(*command);
  const auto state = std::make_shared<GenerateCommand>(*command);
  command->callback([state] { state->run(); });
}

}  // namespace quern::cli
