// The client of a server under load: what it notes of a stream, and vLLM's figures of that.
#include "quern/bench/load_bench.h"

#include <gtest/gtest.h>

#include <future>
#include <numeric>
#include <thread>

#include "quern/base/error.h"
#include "quern/eval/http_connection.h"
#include "tests/support/error_message.h"
#include "tests/support/scripted_server.h"

namespace quern::bench {
namespace {

std::string event(const std::string& json) { return "data: " + json + "\n\n"; }
std::string piece(const std::string& text) {
  return event(R"({"choices": [{"text": ")" + text + R"(", "finish_reason": null}]})");
}
const std::string kEnd = event(R"({"choices": [{"text": "", "finish_reason": "length"}]})");
const std::string kUsage = event(R"({"choices": [], "usage": {"completion_tokens": 4}})");
const std::string kDone = event("[DONE]");

TEST(StreamReader, NotesWhenPiecesCome) {
  StreamReader reader;
  const std::string text = piece("a");
  reader.feed(text.substr(0, 10), 0.5);  // an event counts when all of it is there
  reader.feed(text.substr(10), 1.0);
  reader.feed(piece("b"), 1.5);
  reader.feed(piece("") + piece("c"), 3.0);  // a token that completes no character, and the next
  reader.feed(kEnd + kUsage + kDone, 4.0);
  const RequestRecord record = reader.finish(200, "");
  EXPECT_EQ(record.error, "");
  EXPECT_EQ(record.ttft, 1.0);
  EXPECT_EQ(record.itl, (std::vector<double>{0.5, 1.5, 0.0}));
  EXPECT_EQ(record.latency, 3.0);
  EXPECT_EQ(record.output_tokens, 4);
}

TEST(StreamReader, FailuresAreNamed) {
  const auto error_of = [](const std::string& stream, int status = 200) {
    StreamReader reader;
    reader.feed(stream, 1);
    return reader.finish(status, stream).error;
  };
  EXPECT_EQ(error_of(R"({"error": "no"})", 429), R"(status 429: {"error": "no"})");
  EXPECT_EQ(error_of(kDone), "the stream has no text");
  EXPECT_EQ(error_of(piece("a") + event(R"({"error": {"message": "lost"}})")),
            R"({"message":"lost"})");
  EXPECT_NE(error_of(event("{")), "");
}

LoadResult made_up_load() {
  LoadResult result;
  result.options.model = "m";
  result.options.num_prompts = 3;
  result.options.request_rate = 2;
  result.duration = 10;
  result.requests = {{"", 100, 3, 0.1, {0.2, 0.4}, 0.7},
                     {"", 100, 1, 0.3, {}, 0.3},  // of one token there is no time per token
                     {"status 500", 100, 0, 0, {}, 0}};
  return result;
}

TEST(LoadBench, FiguresAreVllms) {
  const Json json = load_json(made_up_load(), {90, 99.9});
  EXPECT_EQ(json["completed"], 2);
  EXPECT_EQ(json["failed"], 1);
  EXPECT_EQ(json["total_input_tokens"], 200);
  EXPECT_EQ(json["total_output_tokens"], 4);
  EXPECT_EQ(json["request_throughput"], 0.2);
  EXPECT_EQ(json["output_throughput"], 0.4);
  EXPECT_EQ(json["total_token_throughput"], 20.4);
  const std::pair<const char*, double> kFigures[] = {
      {"mean_ttft_ms", 200},    {"median_ttft_ms", 200}, {"std_ttft_ms", 100}, {"p90_ttft_ms", 280},
      {"p99.9_ttft_ms", 299.8}, {"mean_tpot_ms", 300},   {"std_tpot_ms", 0},   {"mean_itl_ms", 300},
      {"p90_itl_ms", 380},      {"mean_e2el_ms", 500}};
  for (const auto& [key, value] : kFigures)
    EXPECT_NEAR(json[key].get<double>(), value, 1e-9) << key;
  EXPECT_EQ(json["errors"], Json::array({"", "", "status 500"}));
}

TEST(LoadBench, TableShowsTheChosenFigures) {
  const std::string table = load_table(made_up_load(), {"ttft", "itl"}, {99});
  for (const char* line : {"============ Serving Benchmark Result ============\n",
                           "Failed requests:                         1         \n",
                           "---------------Time to First Token----------------\n",
                           "Mean TTFT (ms):                          200.00    \n",
                           "P99 ITL (ms):                            398.00    \n"})
    EXPECT_NE(table.find(line), std::string::npos) << line << table;
  EXPECT_EQ(table.find("TPOT"), std::string::npos) << table;
}

TEST(LoadBench, ArrivalsKeepTheRate) {
  LoadOptions options;
  options.num_prompts = 200;
  EXPECT_EQ(arrival_times(options), std::vector<double>(200, 0.0));
  options.request_rate = 4;
  const std::vector<double> times = arrival_times(options);
  EXPECT_TRUE(std::ranges::is_sorted(times));
  EXPECT_NEAR(times.back(), 50, 1e-9);
  EXPECT_EQ(arrival_times(options), times);  // by the seed
  // The more even, the less the waits differ: 1 / sqrt(burstiness) of their mean.
  const auto deviation = [&](double burstiness) {
    options.burstiness = burstiness;
    LatencyFigure waits;
    const std::vector<double> at = arrival_times(options);
    std::adjacent_difference(at.begin(), at.end(), std::back_inserter(waits.values_ms));
    return waits.deviation() / waits.mean();
  };
  EXPECT_NEAR(deviation(1), 1, 0.3);
  EXPECT_NEAR(deviation(100), 0.1, 0.03);
}

std::string stream_answer() {
  const std::string body = piece("a") + piece("b") + kEnd + kUsage + kDone;
  return fmt::format(
      "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
      "{:x}\r\n{}\r\n0\r\n\r\n",
      body.size(), body);
}

// Asks for the model, tries one request that is not counted, sends the others; one is refused.
TEST(LoadBench, RunsAgainstAServer) {
  std::atomic<int> completions{0};
  test::ScriptedServer server([&](int, const std::string& request) -> std::string {
    if (request.starts_with("GET /v1/models "))
      return test::http(200, R"({"data": [{"id": "tiny"}]})");
    EXPECT_TRUE(request.starts_with("POST /v1/completions ")) << request;
    EXPECT_NE(request.find(R"("model":"tiny")"), std::string::npos);
    EXPECT_NE(request.find(R"("max_tokens":4)"), std::string::npos);
    return completions++ == 2 ? test::http(500, "broken") : stream_answer();
  });
  LoadOptions options;
  options.base_url = server.url("");
  options.num_prompts = 5;
  options.max_concurrency = 2;
  options.random_input_len = 3;
  options.random_output_len = 4;
  std::atomic<int> done{0};
  const LoadResult result = run_load(options, [&] { ++done; });
  EXPECT_EQ(done, 5);
  EXPECT_EQ(completions, 6);
  const Json json = load_json(result, {});
  EXPECT_EQ(json["model_id"], "tiny");
  EXPECT_EQ(json["completed"], 4);
  EXPECT_EQ(json["total_input_tokens"], 4 * 3);
  EXPECT_EQ(json["total_output_tokens"], 4 * 4);
  std::size_t waits = 0;
  for (const Json& of_request : json["itls"]) waits += of_request.size();
  EXPECT_EQ(waits, 4U);  // one between two pieces; which request is refused is not known
}

// A server that sends its second chunk only when the client has seen the first.
TEST(HttpConnection, APieceIsSeenWhenItComes) {
  const int listener = ::socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof address;
  ASSERT_EQ(::bind(listener, reinterpret_cast<sockaddr*>(&address), size), 0);
  ASSERT_EQ(::listen(listener, 1), 0);
  ::getsockname(listener, reinterpret_cast<sockaddr*>(&address), &size);
  std::promise<void> seen;
  bool in_time = false;
  std::thread server([&] {
    const int fd = ::accept(listener, nullptr, nullptr);
    char request[4096];
    EXPECT_GT(::recv(fd, request, sizeof request, 0), 0);
    const auto send = [fd](std::string_view text) {
      ::send(fd, text.data(), text.size(), MSG_NOSIGNAL);
    };
    send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n");
    in_time = seen.get_future().wait_for(std::chrono::seconds(10)) == std::future_status::ready;
    send("3\r\ntwo\r\n0\r\n\r\n");
    ::close(fd);
  });
  HttpConnection connection(
      HttpUrl::parse(fmt::format("http://127.0.0.1:{}", ntohs(address.sin_port))), {});
  std::vector<std::string> pieces;
  const HttpResponse response =
      connection.request("GET", "/", "", {}, std::chrono::seconds(20), [&](std::string_view piece) {
        pieces.emplace_back(piece);
        if (pieces.size() == 1) seen.set_value();
      });
  server.join();
  ::close(listener);
  EXPECT_TRUE(in_time);
  EXPECT_EQ(pieces, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(response.body, "onetwo");
}

TEST(LoadBench, AServerThatCannotAnswerIsAnError) {
  test::ScriptedServer server([](int, const std::string&) { return test::http(503, "later"); });
  LoadOptions options;
  options.base_url = server.url("");
  EXPECT_NE(test::error_message([&] { run_load(options); }).find("/v1/models: status 503"),
            std::string::npos);
  options.model = "m";
  EXPECT_EQ(test::error_message([&] { run_load(options); }),
            "the first request failed: status 503: later");
}

}  // namespace
}  // namespace quern::bench
