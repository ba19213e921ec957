// Whole runs with the harness's own command lines: its files, its requests, its console.
// tests/golden/eval/make_harness_runs.py ran lm-evaluation-harness on the same server.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <sstream>

#include "quern/base/file.h"
#include "quern/eval/python_regex.h"
#include "quern/eval/sha256.h"
#include "tests/apps/command.h"
#include "tests/apps/made_up_server.h"
#include "tests/support/scripted_server.h"
#include "tests/support/temp_directory.h"

namespace quern::cli {
namespace {

const std::filesystem::path kRuns = QUERN_SOURCE_DIR "/tests/golden/eval/harness_runs";
constexpr std::size_t kMaxBytes = 16 << 20;

Json read_json(const std::filesystem::path& file) {
  return parse_json(read_file(file, kMaxBytes), file.string());
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  for (std::size_t at = 0; (at = text.find(from, at)) != std::string::npos; at += to.size())
    text.replace(at, from.size(), to);
  return text;
}

// What one run of the program asked, wrote and printed, with date and port masked.
struct Outcome {
  std::vector<std::string> files;
  std::vector<std::string> bodies;  // sha256, sorted
  std::string console;
  Json results;
  std::map<std::string, std::vector<std::string>> samples;  // task -> lines
};

class HarnessRun : public ::testing::TestWithParam<std::string> {
 protected:
  Outcome run(const Json& spec) {
    Outcome out;
    std::mutex mutex;
    test::ScriptedServer server([&](int, const std::string& request) {
      if (request.starts_with("GET")) return test::http(404, "{}");
      const std::string body = request.substr(request.find("\r\n\r\n") + 4);
      {
        const std::lock_guard lock(mutex);
        out.bodies.push_back(sha256_hex(body));
      }
      return test::http(200, made_up_response(parse_json(body, "request")));
    });
    const test::TempDirectory directory;
    const CommandResult result = shell(command(spec, server, directory.path()));
    EXPECT_EQ(result.status, 0) << result.output;
    {
      const std::lock_guard lock(mutex);
      std::sort(out.bodies.begin(), out.bodies.end());
    }
    const auto masked = [&](std::string text) {
      static const PythonRegex date(R"(\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d\.\d{6})");
      for (const auto& found : date.find_all(text)) text = replaced(text, found.front(), "DATE");
      return replaced(text, fmt::format("127.0.0.1:{}", server.port()), "HOST:PORT");
    };
    const std::string begin = model(spec) + " (";
    out.console =
        masked(result.output.substr(std::min(result.output.find(begin), result.output.size())));
    for (const auto& entry : std::filesystem::recursive_directory_iterator(directory.path())) {
      if (entry.is_regular_file()) read(entry.path(), directory.path(), masked, out);
    }
    std::sort(out.files.begin(), out.files.end());
    return out;
  }

 private:
  static std::string model(const Json& spec) {
    return spec["url"] == "completions" ? "local-completions" : "local-chat-completions";
  }
  static std::string command(const Json& spec, const test::ScriptedServer& server,
                             const std::filesystem::path& directory) {
    const std::string model_args =
        "model=models/m3-tiny,base_url=" + server.url("/v1/" + spec["url"].get<std::string>()) +
        "," + spec["model_args"].get<std::string>();
    std::string out = "cd $ROOT && ";
    const Json environment = spec.value("environment", Json::object());
    for (const auto& [name, value] : environment.items())
      out += name + "='" + value.get<std::string>() + "' ";
    out += "$QUERN eval --model " + model(spec) + " --model_args '" +
           replaced(model_args, "TOKENIZER",
                    "tokenizer_backend=huggingface,tokenizer=models/m3-tiny") +
           "' --include_path tests/golden/eval/harness_runs/tasks --batch_size 1 --output_path '" +
           (directory / spec.value("output", "out")).string() + "'";
    bool logs = true;
    for (const Json& argument : spec["arguments"]) {
      logs = logs && argument != "--predict_only" && argument != "--config";
      out += " '" + argument.get<std::string>() + "'";
    }
    return out + (logs ? " --log_samples" : "") + " 2>'" + (directory / "stderr").string() + "'";
  }
  template <typename Mask>
  static void read(const std::filesystem::path& file, const std::filesystem::path& directory,
                   const Mask& masked, Outcome& out) {
    if (file.filename() == "stderr") return;
    const std::string name = masked(file.lexically_relative(directory).string());
    out.files.push_back(name);
    const std::string text = read_file(file, kMaxBytes);
    if (!name.ends_with(".jsonl")) {
      out.results = parse_json(masked(text), name);
      return;
    }
    const std::size_t begin = name.rfind("samples_") + 8;
    auto& lines = out.samples[name.substr(begin, name.size() - begin - 11)];  // "_DATE.jsonl"
    std::istringstream stream(text);
    for (std::string line; std::getline(stream, line);) lines.push_back(line);
  }
};

TEST_P(HarnessRun, EqualsTheHarness) {
  const Json golden = read_json(kRuns / "golden.json").at(GetParam());
  Json spec;
  const Json runs = read_json(kRuns / "runs.json");
  for (const Json& entry : runs) {
    if (entry["name"] == GetParam()) spec = entry;
  }
  const Outcome found = run(spec);
  EXPECT_EQ(Json(found.files), golden["files"]);
  EXPECT_EQ(Json(found.bodies), golden["bodies"]);
  const std::string console = golden["console"].get<std::string>();
  EXPECT_EQ(python_strip(found.console), python_strip(console));

  ASSERT_EQ(found.samples.size(), golden["samples"].size());
  for (const auto& [task, lines] : golden["samples"].items()) {
    const auto& ours = found.samples.at(task);
    ASSERT_EQ(ours.size(), lines.size()) << task;
    for (std::size_t i = 0; i < lines.size(); ++i)
      ASSERT_EQ(sha256_hex(ours[i]), lines[i]["sha256"]) << task << " line " << i + 1 << "\n"
                                                         << ours[i] << "\n"
                                                         << lines[i].dump();
  }

  // The results file: the harness's keys in its order; the device is not made up here.
  std::vector<std::string> keys;
  for (const auto& [key, value] : found.results.items()) {
    if (std::find(golden["keys"].begin(), golden["keys"].end(), key) != golden["keys"].end())
      keys.push_back(key);
  }
  EXPECT_EQ(Json(keys), golden["keys"]);
  for (const auto& [key, value] : golden["results"].items()) {
    Json expected = value;
    Json ours = found.results[key];
    if (key == "config") {
      expected.erase("device");
      ours.erase("device");
    }
    EXPECT_EQ(nlohmann::json(ours), nlohmann::json(expected)) << key;
    if (key == "results" || key == "configs") {
      EXPECT_EQ(ours.dump(), expected.dump()) << key;
    }
  }
}

std::vector<std::string> names() {
  std::vector<std::string> out;
  const Json runs = read_json(kRuns / "runs.json");
  for (const Json& spec : runs) out.push_back(spec["name"].get<std::string>());
  return out;
}

INSTANTIATE_TEST_SUITE_P(Runs, HarnessRun, ::testing::ValuesIn(names()),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace quern::cli
