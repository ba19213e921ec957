// Pictures through the whole server on models/m3-tiny: answers, sharing, and what strangers send.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <atomic>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/checkpoint/safetensors.h"
#include "quern/server/server.h"
#include "tests/server/base64.h"
#include "tests/server/media_server.h"
#include "tests/server/raw_client.h"

namespace quern::server {
namespace {

using std::chrono::milliseconds;
using test::LoopbackServer;
using ::testing::HasSubstr;

std::string shape(const std::string& name) {
  return read_file(QUERN_SOURCE_DIR "/data/shapes/" + name + ".png", 1 << 20);
}
Json image_part(const std::string& url) {
  return {{"type", "image_url"}, {"image_url", {{"url", url}}}};
}
Json video_part(const std::string& url) {
  return {{"type", "video_url"}, {"video_url", {{"url", url}}}};
}
std::string clip(const std::string& name) {
  const SafetensorsFile file(std::filesystem::path(QUERN_SOURCE_DIR) /
                             "tests/golden/video/clips.safetensors");
  const auto raw = file.view(*file.find(name + ".file")).raw();
  return {reinterpret_cast<const char*>(raw.data()), raw.size()};
}
Json text_part(const std::string& text) { return {{"type", "text"}, {"text", text}}; }
Json user(std::vector<Json> parts) { return {{"role", "user"}, {"content", std::move(parts)}}; }
Json body(Json messages) {
  return {{"messages", std::move(messages)},
          {"max_tokens", 16},
          {"temperature", 0},
          {"logprobs", true},
          {"top_logprobs", 2}};
}
Json ask_about(const std::string& url, const std::string& question = "What is in this picture?") {
  return body(Json::array({user({image_part(url), text_part(question)})}));
}

std::size_t peak_memory_bytes() {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    std::size_t kilobytes = 0;
    if (key == "VmHWM:" && status >> kilobytes) return kilobytes * 1024;
  }
  return 0;
}

class ImageE2e : public testing::Test {
 protected:
  void start(const std::function<void(ServerOptions&)>& change = {}) {
    ServerOptions options;
    options.http.host = "127.0.0.1";
    options.http.port = 0;
    options.model.engine.model_dir = QUERN_SOURCE_DIR "/models/m3-tiny";
    options.model.engine.kv_cache_bytes = 64 << 20;
    options.model.chat.parse_reasoning = true;
    options.model.media.fetch_timeout = milliseconds(1000);
    if (change) change(options);
    server_ = std::make_unique<Server>(options);
    const std::string address = server_->address();
    port_ = std::stoi(address.substr(address.rfind(':') + 1));
    thread_ = std::thread([this] { server_->run(false); });
  }
  ~ImageE2e() override {
    if (server_ == nullptr) return;
    server_->stop();
    thread_.join();
  }

  struct Answer {
    int status = 0;
    Json json;
    std::string text() const { return json["choices"][0]["message"]["content"].get<std::string>(); }
    std::string error() const { return json["error"]["message"].get<std::string>(); }
  };
  Answer send(const std::string& bytes) {
    RawClient client(port_);
    client.send(post("/v1/chat/completions", bytes, "Connection: close\r\n"));
    const std::string answer = client.read_until("", std::chrono::seconds(120));
    const auto at = answer.find("\r\n\r\n");
    if (at == std::string::npos) return {};
    return {std::stoi(answer.substr(9, 3)), parse_json(answer.substr(at + 4), "answer")};
  }
  Answer ask(const Json& request) { return send(request.dump()); }
  engine::EngineStats stats() { return server_->chat().engine().stats(); }

  std::unique_ptr<Server> server_;
  std::thread thread_;
  int port_ = 0;
};

TEST_F(ImageE2e, NamesColourAndShape) {
  start();
  for (const char* colour : {"red", "green", "blue"}) {
    for (const char* form : {"circle", "square", "triangle"}) {
      const std::string name = std::string(colour) + "_" + form;
      const Answer answer = ask(ask_about(test::png_data_url(shape(name + "_56"))));
      ASSERT_EQ(answer.status, 200) << answer.json;
      EXPECT_EQ(answer.text(), std::string("a ") + colour + " " + form);
    }
  }
  EXPECT_EQ(ask(ask_about(test::png_data_url(shape("green_triangle_112")))).text(),
            "a green triangle");
  EXPECT_EQ(stats().images_encoded, 10U);
}

// 80 or 85 tokens a prompt with one image: the text's, the image's, its start and end.
TEST_F(ImageE2e, UsageCountsTheImage) {
  start();
  const Answer small = ask(ask_about(test::png_data_url(shape("red_circle_56"))));
  const Answer large = ask(ask_about(test::png_data_url(shape("red_circle_112"))));
  EXPECT_EQ(large.json["usage"]["prompt_tokens"].get<int>() -
                small.json["usage"]["prompt_tokens"].get<int>(),
            12);
  EXPECT_EQ(large.json["usage"]["prompt_tokens"], 85) << "as recorded with m3-tiny";
}

TEST_F(ImageE2e, AloneTogetherCachedAndAcrossTurnsTheSame) {
  start();
  std::vector<Json> requests;
  for (const char* name : {"red_circle_56", "blue_square_84", "orange_triangle_112"}) {
    requests.push_back(ask_about(test::png_data_url(shape(name))));
    // Two pictures in a request, and a second turn that shows the first one again.
    requests.push_back(
        body(Json::array({user({image_part(test::png_data_url(shape(name))),
                                image_part(test::png_data_url(shape("green_circle_84"))),
                                text_part("What do you see?")})})));
    requests.push_back(body(Json::array(
        {user({image_part(test::png_data_url(shape(name))), text_part("What do you see?")}),
         {{"role", "assistant"}, {"content", "a picture"}},
         user({text_part("And here?"),
               image_part(test::png_data_url(shape("green_circle_84")))})})));
  }
  std::vector<std::string> alone;
  for (const Json& request : requests) {
    const Answer answer = ask(request);
    ASSERT_EQ(answer.status, 200) << answer.json;
    alone.push_back(answer.json["choices"].dump());
  }
  EXPECT_EQ(stats().images_encoded, 4U) << "one encoding of each picture";
  std::vector<std::string> together(requests.size());
  std::vector<std::thread> clients;
  for (std::size_t i = 0; i < requests.size(); ++i) {
    clients.emplace_back([&, i] { together[i] = ask(requests[i]).json["choices"].dump(); });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(together, alone);
}

TEST_F(ImageE2e, SeveralChoicesShareOneEncoding) {
  start();
  Json request = ask_about(test::png_data_url(shape("red_circle_56")));
  request["n"] = 4;
  request["temperature"] = 0.5;
  request["seed"] = 1;
  const Answer answer = ask(request);
  ASSERT_EQ(answer.status, 200) << answer.json;
  EXPECT_EQ(answer.json["choices"].size(), 4U);
  EXPECT_EQ(stats().images_encoded, 1U);
}

TEST_F(ImageE2e, StreamsAndLocalFilesAndHttp) {
  LoopbackServer pictures(
      [](const std::string&, const auto& write) { write(test::ok(shape("purple_square_56"))); });
  start([](ServerOptions& options) {
    options.model.media.allowed_local_media_path = QUERN_SOURCE_DIR "/data/shapes";
    options.model.media.allowed_media_domains = {"127.0.0.1"};
  });
  EXPECT_EQ(ask(ask_about("file://" QUERN_SOURCE_DIR "/data/shapes/yellow_circle_56.png")).text(),
            "a yellow circle");
  EXPECT_EQ(ask(ask_about(pictures.url("/p.jpg"))).text(), "a purple square");
  Json request = ask_about(test::png_data_url(shape("red_circle_56")));
  request["stream"] = true;
  RawClient client(port_);
  client.send(post("/v1/chat/completions", request.dump(), "Connection: close\r\n"));
  EXPECT_THAT(client.read_all(), HasSubstr("data: [DONE]"));
  for (const char* url :
       {"file:///etc/passwd", "file://" QUERN_SOURCE_DIR "/data/shapes/../../README.md"}) {
    EXPECT_THAT(ask(ask_about(url)).error(), HasSubstr("must be a subpath"));
  }
}

// A host that answers late delays nobody but who asked for it.
TEST_F(ImageE2e, ASlowHostDelaysNoOtherRequest) {
  std::atomic<bool> go = false;
  LoopbackServer slow([&](const std::string&, const auto& write) {
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    write(test::ok(shape("red_circle_56")));
  });
  start([](ServerOptions& options) {
    options.model.media.allowed_media_domains = {"127.0.0.1"};
    options.model.media.fetch_timeout = milliseconds(60'000);
  });
  std::vector<std::thread> waiting;
  std::atomic<int> right = 0;
  for (int i = 0; i < 12; ++i) {  // more than the server has threads
    waiting.emplace_back([&] { right += ask(ask_about(slow.url("/"))).text() == "a red circle"; });
  }
  while (slow.connections() < 12) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(ask(body(Json::array({user({text_part("hi")})}))).status, 200);
  EXPECT_EQ(ask(ask_about(test::png_data_url(shape("blue_circle_56")))).text(), "a blue circle");
  EXPECT_EQ(right, 0);
  go = true;
  for (std::thread& client : waiting) client.join();
  EXPECT_EQ(right, 12);
}

std::string big_endian(std::uint32_t value) {
  return {static_cast<char>(value >> 24), static_cast<char>(value >> 16),
          static_cast<char>(value >> 8), static_cast<char>(value)};
}

// A PNG header that promises `side` x `side` pixels of 16-bit RGBA, without its checksum.
std::string png_promise(std::uint32_t side) {
  return std::string("\x89PNG\r\n\x1A\n", 8) + big_endian(13) + "IHDR" + big_endian(side) +
         big_endian(side) + std::string("\x10\x06\x00\x00\x00", 5) + big_endian(0) +
         std::string(100, 'x');
}

TEST_F(ImageE2e, WhatStrangersSendIsRefusedAndHurtsNobody) {
  LoopbackServer inside(
      [](const std::string&, const auto& write) { write(test::ok(shape("red_circle_56"))); });
  std::string target;
  LoopbackServer outside([&](const std::string& request, const auto& write) {
    if (request.starts_with("GET /nested")) return write(test::redirect("/second"));
    if (request.starts_with("GET /second")) return write(test::redirect(target));
    if (request.starts_with("GET /404")) {
      return write("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
    }
    if (request.starts_with("GET /huge")) {
      return write("HTTP/1.1 200 OK\r\nContent-Length: 9999999999\r\n\r\n");
    }
    return write(test::ok("<html>not a picture</html>"));
  });
  start([](ServerOptions& options) {
    options.model.media.allowed_media_domains = {"localhost"};
    options.model.media.fetch_timeout = milliseconds(500);
    options.model.engine.max_num_batched_tokens = 512;
  });
  // "localhost" is allowed by name; all else on this machine is not.
  const auto there = [&](const std::string& path) { return outside.url(path, "localhost"); };
  const std::string picture = shape("red_circle_112");
  const std::string gif =
      std::string("GIF89a\xFF\xFF\xFF\xFF\x80\x00\x00", 13) + std::string(200, '\x2C');
  const std::string jpeg = std::string(
      "\xFF\xD8\xFF\xC0\x00\x11\x08\xFF\xFF\xFF\xFF\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01", 21);
  struct Row {
    std::string name;
    std::string url;
    int status;
  };
  std::vector<Row> rows = {
      {"bomb of pixels", test::png_data_url(png_promise(60'000)), 400},
      {"bomb of sides", test::png_data_url(png_promise(0x7FFFFFFF)), 400},
      {"GIF of 65,535 squared", test::png_data_url(gif), 400},
      {"JPEG of 65,535 squared", test::png_data_url(jpeg), 400},
      {"text", test::png_data_url("hello, I am a picture"), 400},
      {"wrong magic", test::png_data_url("\x89PNX" + picture.substr(4)), 400},
      {"empty", "data:image/png;base64,", 400},
      {"not base64", "data:image/png;base64,%%%%", 400},
      {"not base64 at all", "data:image/png,abc", 501},
      {"10 MB of base64 garbage", "data:image/png;base64," + std::string(10'000'000, 'A'), 400},
      {"loopback", inside.url("/"), 400},
      {"loopback, IPv6", inside.url("/", "[::1]"), 400},
      {"metadata", "http://169.254.169.254/latest/meta-data/", 400},
      {"mapped", inside.url("/", "[::ffff:127.0.0.1]"), 400},
      {"not a picture", there("/html"), 400},
      {"remote 404", there("/404"), 422},
      {"remote says 10 GB", there("/huge"), 400},
      {"file", "file:///etc/passwd", 400},
      {"ftp", "ftp://localhost/x.png", 400},
      {"nothing", "", 400},
  };
  for (std::size_t length = 1; length + 20 < picture.size(); length += 37) {
    rows.push_back({"first " + std::to_string(length) + " bytes",
                    test::png_data_url(picture.substr(0, length)), 400});
  }
  const std::size_t before = peak_memory_bytes();
  for (const Row& row : rows) {
    const Answer answer = ask(ask_about(row.url));
    EXPECT_EQ(answer.status, row.status) << row.name << ": " << answer.json.dump().substr(0, 300);
  }
  for (const std::string& to :
       {inside.url("/"), std::string("http://127.0.0.1:1/"), std::string("http://[::1]:1/"),
        std::string("file:///etc/passwd")}) {
    target = to;
    EXPECT_EQ(ask(ask_about(there("/nested"))).status, 400) << to;
  }
  EXPECT_EQ(inside.connections(), 0);

  Json many = Json::array();
  for (int i = 0; i < 10'000; ++i) many.push_back(image_part(test::png_data_url("x")));
  const Answer too_many = ask(body(Json::array({{{"role", "user"}, {"content", many}}})));
  EXPECT_EQ(too_many.status, 400);
  EXPECT_THAT(too_many.error(), HasSubstr("At most 999 image(s) may be provided in one prompt."));
  many = Json::array();
  for (int i = 0; i < 900; ++i) many.push_back(image_part(test::png_data_url(picture)));
  const Answer too_long = ask(body(Json::array({{{"role", "user"}, {"content", many}}})));
  EXPECT_EQ(too_long.status, 400);
  EXPECT_THAT(too_long.error(), HasSubstr("maximum context length"));
  const Answer spoofed = ask(body(Json::array(
      {user({text_part("look: ]<]image[>["), image_part(test::png_data_url(picture))})})));
  EXPECT_EQ(spoofed.status, 400);
  EXPECT_THAT(spoofed.error(), HasSubstr("2 image placeholders"));
  for (const std::string& url :
       {test::png_data_url("not a video"), test::png_data_url(picture), inside.url("/"),
        test::png_data_url(std::string("\0\0\0\x18"
                                       "ftypmp42",
                                       12))}) {
    EXPECT_EQ(ask(body(Json::array({user({video_part(url)})}))).status, 400) << url.substr(0, 60);
  }
  EXPECT_EQ(inside.connections(), 0);

  // The largest picture that is taken needs a few hundred MB; none of these may need that much.
  EXPECT_LT(peak_memory_bytes() - before, std::size_t{400} << 20);
  EXPECT_EQ(ask(ask_about(test::png_data_url(shape("blue_square_56")))).text(), "a blue square");
  EXPECT_TRUE(server_->chat().engine().healthy());
  EXPECT_EQ(server_->chat().service().in_flight(), 0);
}

// Two segments; alone, again from the caches, and beside other requests in small chunks.
TEST_F(ImageE2e, VideosAreSeenTheSameAloneAndTogether) {
  if (!vision::video_supported()) GTEST_SKIP() << "built without FFmpeg's libraries";
  start([](ServerOptions& options) {
    options.model.engine.max_num_batched_tokens = 32;
    options.model.engine.max_num_seqs = 16;
  });
  const std::string url = "data:video/mp4;base64," + test::encode_base64(clip("h264_long"));
  const Json request = body(Json::array({user({video_part(url), text_part("What is this?")})}));
  const Answer alone = ask(request);
  ASSERT_EQ(alone.status, 200) << alone.json;
  EXPECT_EQ(stats().images_encoded, 2U) << "segments";
  const Answer text = ask(body(Json::array({user({text_part("What is this?")})})));
  // Six times 4 placeholders, start, end, and the tokens of the time.
  const int added = alone.json["usage"]["prompt_tokens"].get<int>() -
                    text.json["usage"]["prompt_tokens"].get<int>();
  EXPECT_GT(added, 6 * 6 + 6 * 5);
  std::vector<std::string> together(6);
  std::vector<std::thread> clients;
  for (std::size_t i = 0; i < together.size(); ++i) {
    clients.emplace_back([&, i] { together[i] = ask(request).json["choices"].dump(); });
  }
  EXPECT_EQ(ask(ask_about(test::png_data_url(shape("red_circle_56")))).text(), "a red circle");
  for (std::thread& client : clients) client.join();
  for (const std::string& answer : together) EXPECT_EQ(answer, alone.json["choices"].dump());
  EXPECT_EQ(stats().images_encoded, 3U);
}

TEST_F(ImageE2e, AKnownUuidNeedsNoData) {
  start();
  Json part = image_part(test::png_data_url(shape("red_circle_56")));
  part["uuid"] = "the-circle";
  const Json question = text_part("What is in this picture?");
  EXPECT_EQ(ask(body(Json::array({user({part, question})}))).text(), "a red circle");
  part["image_url"] = nullptr;
  EXPECT_EQ(ask(body(Json::array({user({part, question})}))).text(), "a red circle");
  part["uuid"] = "another";
  const Answer unknown = ask(body(Json::array({user({part, question})})));
  EXPECT_EQ(unknown.status, 400);
  EXPECT_THAT(unknown.error(), HasSubstr("uuid 'another' is not, or no longer, in the cache"));
}

// The fetch ends with the client who asked for it.
TEST_F(ImageE2e, AFetchEndsWhenItsClientGoes) {
  std::atomic<bool> dropped = false;
  LoopbackServer* running = nullptr;
  LoopbackServer slow([&](const std::string&, const auto& write) {
    write("HTTP/1.1 200 OK\r\nX: ");
    while (!running->stopping() && write("x")) std::this_thread::sleep_for(milliseconds(5));
    dropped = !running->stopping();
  });
  running = &slow;
  start([](ServerOptions& options) {
    options.model.media.allowed_media_domains = {"127.0.0.1"};
    options.model.media.fetch_timeout = milliseconds(600'000);
  });
  {
    RawClient client(port_);
    client.send(post("/v1/chat/completions", ask_about(slow.url("/")).dump()));
    while (slow.connections() < 1) std::this_thread::sleep_for(milliseconds(1));
  }
  for (int i = 0; i < 2000 && !dropped; ++i) std::this_thread::sleep_for(milliseconds(5));
  EXPECT_TRUE(dropped);
  EXPECT_EQ(ask(ask_about(test::png_data_url(shape("blue_square_56")))).text(), "a blue square");
}

TEST_F(ImageE2e, LimitsOfTheOperator) {
  start([](ServerOptions& options) { options.model.max_images = 1; });
  const std::string url = test::png_data_url(shape("red_circle_56"));
  const Answer two = ask(body(Json::array({user({image_part(url), image_part(url)})})));
  EXPECT_EQ(two.status, 400);
  EXPECT_EQ(two.error(),
            "At most 1 image(s) may be provided in one prompt. Set `--limit-mm-per-prompt` to "
            "increase this limit. (parameter=image, value=2)");
  EXPECT_EQ(ask(ask_about(url)).text(), "a red circle");
}

TEST_F(ImageE2e, LanguageModelOnlyTakesNoImages) {
  start([](ServerOptions& options) { options.model.engine.images.language_model_only = true; });
  const Answer answer = ask(ask_about(test::png_data_url(shape("red_circle_56"))));
  EXPECT_EQ(answer.status, 400);
  EXPECT_THAT(answer.error(), HasSubstr("At most 0 image(s) may be provided in one prompt."));
  EXPECT_EQ(ask(body(Json::array({user({text_part("hi")})}))).status, 200);
}

// The pictures of live requests have a bound; who comes too late is told to come back.
TEST_F(ImageE2e, MemoryOfPicturesHasABound) {
  start([](ServerOptions& options) { options.model.max_media_bytes = 400'000; });
  const std::string url =
      test::png_data_url(shape("red_circle_112"));  // 64 patches are 301,056 bytes
  Json two = body(Json::array({user({image_part(url), image_part(url)})}));
  const Answer refused = ask(two);
  EXPECT_EQ(refused.status, 429) << refused.json;
  EXPECT_EQ(ask(ask_about(url)).status, 200);
  // What has ended gives back, perhaps a moment behind its answer.
  int status = ask(ask_about(url)).status;
  for (int i = 0; i < 200 && status == 429; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    status = ask(ask_about(url)).status;
  }
  EXPECT_EQ(status, 200);
}

}  // namespace
}  // namespace quern::server
