// What does the HTTP layer cost by itself? Requests per second and what a streamed token waits
// between the engine and the client, with an engine that answers at once or on a clock. The bound
// is the bare round trip of a request over the same loopback sockets (GET /health).
// Must never time an engine: nothing is computed.
// Answers are proved by tests/server/api_test.cc.
//   server_bench [SECONDS]: seconds of each line, 2 by default
#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "quern/server/api.h"
#include "quern/server/http_server.h"

namespace {

using namespace quern;
using namespace quern::server;
using Clock = std::chrono::steady_clock;

// Answers every request with `tokens` tokens: all at once, or one of each generation a tick. A
// token's text is the time at which it was made.
class NullEngine final : public Generator {
 public:
  std::atomic<int> tokens = 16;
  std::atomic<std::chrono::microseconds> tick = std::chrono::microseconds(0);

  NullEngine() : thread_([this] { run(); }) {}
  ~NullEngine() override {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_one();
    thread_.join();
  }
  void submit(engine::GenerationRequest request) override {
    {
      const std::lock_guard lock(mutex_);
      inbox_.push_back({std::move(request), 0});
    }
    wake_.notify_one();
  }
  void cancel(const std::string&) override {}
  engine::EngineStats stats() const override { return {}; }
  bool healthy() const override { return true; }

 private:
  struct Live {
    engine::GenerationRequest request;
    int made = 0;
  };

  void run() {
    std::vector<Live> live;
    while (true) {
      {
        std::unique_lock lock(mutex_);
        wake_.wait(lock, [&] { return stop_ || !inbox_.empty() || !live.empty(); });
        if (stop_) return;
        for (Live& added : inbox_) live.push_back(std::move(added));
        inbox_.clear();
      }
      for (Live& one : live) {
        do step(one);
        while (tick.load().count() == 0 && one.made < tokens);
      }
      std::erase_if(live, [this](const Live& one) { return one.made >= tokens; });
      if (tick.load().count() > 0) std::this_thread::sleep_for(tick.load());
    }
  }
  void step(Live& one) const {
    engine::Output output;
    output.text = fmt::format("{} ", Clock::now().time_since_epoch().count());
    output.token_ids = {one.made % 100};
    output.prompt_tokens = static_cast<int>(one.request.prompt.size());
    output.completion_tokens = ++one.made;
    if (one.made >= tokens) output.finish_reason = engine::FinishReason::kStop;
    one.request.on_output(std::move(output));
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::vector<Live> inbox_;
  bool stop_ = false;
  std::thread thread_;  // last
};

// A connection that is kept; blocking.
class Client {
 public:
  explicit Client(int port) : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
    const int on = 1;
    ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<std::uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) std::abort();
  }
  ~Client() { ::close(fd_); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  void send(const std::string& bytes) const {
    if (::send(fd_, bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
      std::abort();
    }
  }
  // Reads until `text_` holds `end` behind `from`; calls `seen` after each piece.
  template <typename Seen>
  void read_until(const std::string& end, Seen&& seen) {
    text_.clear();
    while (text_.find(end) == std::string::npos) {
      char buffer[1 << 14];
      const ssize_t got = ::recv(fd_, buffer, sizeof buffer, 0);
      if (got <= 0) std::abort();
      text_.append(buffer, static_cast<std::size_t>(got));
      seen(text_);
    }
  }

 private:
  int fd_;
  std::string text_;
};

std::string request(bool stream) {
  const std::string body =
      std::string(R"({"messages":[{"role":"user","content":"What is the weather in Oslo?"}])") +
      (stream ? R"(,"stream":true})" : "}");
  return "POST /v1/chat/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
         "Content-Length: " +
         std::to_string(body.size()) + "\r\n\r\n" + body;
}

double quantile(std::vector<double>& values, double share) {
  if (values.empty()) return 0;
  const auto place = static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
  std::nth_element(values.begin(), values.begin() + place, values.end());
  return values[static_cast<std::size_t>(place)];
}

double microseconds(Clock::duration time) {
  return std::chrono::duration<double, std::micro>(time).count();
}

struct Line {
  const char* name;
  std::string bytes;
  std::string end;  // of an answer
  int clients;
  int tokens;
  std::chrono::microseconds tick;
};

class Bench {
 public:
  Bench(int port, NullEngine& engine, double seconds)
      : port_(port), engine_(engine), seconds_(seconds) {}

  void run(const Line& line) {
    engine_.tokens = line.tokens;
    engine_.tick = line.tick;
    answers_.clear();
    waits_.clear();
    const auto end = Clock::now() + std::chrono::duration<double>(seconds_);
    std::vector<std::thread> clients;
    for (int i = 0; i < line.clients; ++i) {
      clients.emplace_back(
          [&, end] { client(line, std::chrono::time_point_cast<Clock::duration>(end)); });
    }
    for (std::thread& one : clients) one.join();
    fmt::print("{:<44} {:>7} {:>10.0f} {:>9.0f} {:>9.0f}", line.name, line.clients,
               static_cast<double>(answers_.size()) / seconds_, quantile(answers_, 0.5),
               quantile(answers_, 0.99));
    if (!waits_.empty()) {
      fmt::print(" {:>9.0f} {:>9.0f}", quantile(waits_, 0.5), quantile(waits_, 0.99));
    }
    fmt::print("\n");
  }

 private:
  void client(const Line& line, Clock::time_point end) {
    Client connection(port_);
    std::vector<double> answers, waits;
    while (Clock::now() < end) {
      const auto begin = Clock::now();
      std::size_t looked = 0;
      connection.send(line.bytes);
      connection.read_until(line.end, [&](const std::string& text) {
        if (line.tick.count() > 0) add_waits(text, looked, waits);
      });
      answers.push_back(microseconds(Clock::now() - begin));
    }
    const std::lock_guard lock(mutex_);
    answers_.insert(answers_.end(), answers.begin(), answers.end());
    waits_.insert(waits_.end(), waits.begin(), waits.end());
  }

  // Of the tokens whose text has come: now minus the time that they say.
  static void add_waits(const std::string& text, std::size_t& looked, std::vector<double>& waits) {
    const auto now = Clock::now();
    const std::string mark = R"("content":")";
    for (std::size_t at; (at = text.find(mark, looked)) != std::string::npos;) {
      const std::size_t begin = at + mark.size();
      const std::size_t close = text.find('"', begin);
      if (close == std::string::npos) return;
      looked = close;
      for (std::size_t i = begin; i < close;) {  // several tokens may have melted together
        const std::size_t blank = std::min(text.find(' ', i), close);
        if (blank > i) {
          const Clock::time_point made{Clock::duration(std::stoll(text.substr(i, blank - i)))};
          waits.push_back(microseconds(now - made));
        }
        i = blank + 1;
      }
    }
  }

  const int port_;
  NullEngine& engine_;
  const double seconds_;
  std::mutex mutex_;
  std::vector<double> answers_, waits_;  // microseconds
};

}  // namespace

int main(int argc, char** argv) {
  const Tokenizer tokenizer = Tokenizer::load(QUERN_SOURCE_DIR "/models/m3-tiny");
  NullEngine engine;
  ChatServiceOptions chat;
  chat.model_names = {"null"};
  chat.max_model_len = 4096;
  chat.vocab_size = tokenizer.vocab_size();
  chat.parse_reasoning = chat.parse_tools = true;
  ChatService service(tokenizer, ChatTemplate::load(QUERN_SOURCE_DIR "/models/m3-tiny"), engine,
                      std::move(chat));
  HttpOptions http;
  http.host = "127.0.0.1";
  http.port = 0;
  std::unique_ptr<Api> api;
  HttpServer server(http, [&](HttpExchange& exchange) { return api->handle(exchange); });
  api = std::make_unique<Api>(service, ApiOptions{});
  std::thread thread([&] { server.run(); });

  fmt::print("{:<44} {:>7} {:>10} {:>9} {:>9} {:>9} {:>9}\n", "microseconds", "clients",
             "answers/s", "p50", "p99", "token p50", "token p99");
  const std::string health = "GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
  const std::string done = "data: [DONE]\n\n\r\n0\r\n\r\n";
  using std::chrono::microseconds;
  Bench bench(server.port(), engine, argc > 1 ? std::stod(argv[1]) : 2);
  for (const Line& line : {
           Line{"bound: GET /health", health, "\r\n\r\n", 1, 1, microseconds(0)},
           Line{"bound: GET /health", health, "\r\n\r\n", 16, 1, microseconds(0)},
           Line{"chat, 16 tokens at once", request(false), "\"kv_transfer_params\":null}", 1, 16,
                microseconds(0)},
           Line{"chat, 16 tokens at once", request(false), "\"kv_transfer_params\":null}", 16, 16,
                microseconds(0)},
           Line{"chat streamed, 16 tokens at once", request(true), done, 16, 16, microseconds(0)},
           Line{"chat streamed, a token each 5 ms", request(true), done, 1, 50, microseconds(5000)},
           Line{"chat streamed, a token each 5 ms", request(true), done, 16, 50,
                microseconds(5000)},
           Line{"chat streamed, a token each 5 ms", request(true), done, 64, 50,
                microseconds(5000)},
       }) {
    bench.run(line);
  }
  server.stop();
  thread.join();
  api.reset();
}
