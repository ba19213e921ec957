// Several URLs of several requests at once, budgets, and the end of the loader.
#include "quern/server/media_loader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio/ip/address.hpp>
#include <future>

#include "quern/base/file.h"
#include "quern/server/api_error.h"
#include "tests/server/base64.h"
#include "tests/server/media_server.h"
#include "tests/support/temp_directory.h"

namespace quern::server {
namespace {

using std::chrono::milliseconds;
using test::LoopbackServer;
using ::testing::HasSubstr;

MediaOptions loopback_allowed() {
  MediaOptions options;
  options.allowed_media_domains = {"127.0.0.1"};
  return options;
}

std::pair<int, std::string> failure(MediaLoader& loader, std::vector<std::string> urls) {
  try {
    loader.load(std::move(urls));
  } catch (const ApiError& error) {
    return {error.status(), error.what()};
  }
  return {200, ""};
}

TEST(MediaLoader, KeepsTheOrder) {
  LoopbackServer server([](const std::string& request, const auto& write) {
    const std::string path = request.substr(4, request.find(' ', 4) - 4);
    if (path == "/1") std::this_thread::sleep_for(milliseconds(50));
    write(test::ok(path));
  });
  const auto budget = std::make_shared<MemoryBudget>(1 << 20);
  MediaLoader loader(loopback_allowed(), budget);
  {
    const auto media = loader.load({test::png_data_url("a"), server.url("/1"),
                                    test::png_data_url("b"), server.url("/2"), server.url("/3"),
                                    server.url("/4"), test::png_data_url("c")});
    std::string all;
    for (const Media& item : media) all += item.bytes;
    EXPECT_EQ(all, "a/1b/2/3/4c");
    EXPECT_EQ(budget->used(), all.size());
  }
  EXPECT_EQ(budget->used(), 0U);
  EXPECT_TRUE(loader.load({}).empty());
}

TEST(MediaLoader, TheFirstFailureIsReportedAndNothingIsKept) {
  LoopbackServer server([](const std::string&, const auto& write) {
    std::this_thread::sleep_for(milliseconds(20));
    write("HTTP/1.1 404 Gone\r\nContent-Length: 0\r\n\r\n");
  });
  const auto budget = std::make_shared<MemoryBudget>(1 << 20);
  MediaLoader loader(loopback_allowed(), budget);
  EXPECT_EQ(failure(loader, {test::png_data_url("a"), server.url("/"), "ftp://x"}).first, 422);
  EXPECT_EQ(failure(loader, {"ftp://x", server.url("/")}).second,
            "The URL must be either a HTTP, data or file URL.");
  EXPECT_EQ(failure(loader, {"data:image/png,abc"}).first, 501);
  EXPECT_EQ(budget->used(), 0U);
}

TEST(MediaLoader, BytesHaveLimits) {
  MediaOptions options;
  options.max_item_bytes = 100;
  options.max_request_bytes = 250;
  const auto budget = std::make_shared<MemoryBudget>(400);
  MediaLoader loader(options, budget);
  const std::string hundred = test::png_data_url(std::string(100, 'x'));
  EXPECT_THAT(failure(loader, {test::png_data_url(std::string(101, 'x'))}).second,
              HasSubstr("100 bytes"));
  EXPECT_THAT(failure(loader, {hundred, hundred, hundred}).second, HasSubstr("250 bytes together"));
  const auto a = loader.load({hundred, hundred});
  const auto b = loader.load({hundred, hundred});
  EXPECT_EQ(failure(loader, {hundred}).first, 429);
  EXPECT_EQ(budget->used(), 400U);
}

// Slow fetches of some requests do not hold up data: URLs of others, and at most max_fetches run.
TEST(MediaLoader, SlowFetchesDoNotBlockOthers) {
  std::atomic<int> running = 0, most = 0;
  std::atomic<bool> go = false;
  LoopbackServer server([&](const std::string&, const auto& write) {
    most = std::max(most.load(), ++running);
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    --running;
    write(test::ok("slow"));
  });
  MediaOptions options = loopback_allowed();
  options.max_fetches = 3;
  MediaLoader loader(options, std::make_shared<MemoryBudget>(1 << 20));
  std::vector<std::future<std::vector<Media>>> slow;
  for (int i = 0; i < 6; ++i) {
    slow.push_back(std::async(std::launch::async, [&] { return loader.load({server.url("/")}); }));
  }
  while (running < 3) std::this_thread::sleep_for(milliseconds(1));
  EXPECT_EQ(loader.load({test::png_data_url("quick")})[0].bytes, "quick");
  go = true;
  for (auto& result : slow) EXPECT_EQ(result.get()[0].bytes, "slow");
  EXPECT_EQ(most, 3);
}

// A name server that does not answer holds up names only.
TEST(MediaLoader, SlowNamesDoNotBlockOthers) {
  std::atomic<bool> go = false;
  std::atomic<int> looked_up = 0;
  MediaOptions options;
  options.resolve = [&](const std::string&) {
    ++looked_up;
    while (!go) std::this_thread::sleep_for(milliseconds(1));
    return std::vector<boost::asio::ip::address>{};
  };
  MediaLoader loader(options, std::make_shared<MemoryBudget>(1 << 20));
  std::vector<std::future<std::pair<int, std::string>>> slow;
  for (int i = 0; i < 8; ++i) {
    slow.push_back(
        std::async(std::launch::async, [&] { return failure(loader, {"http://slow.test/"}); }));
  }
  while (looked_up < 4) std::this_thread::sleep_for(milliseconds(1));
  auto quick =
      std::async(std::launch::async, [&] { return loader.load({test::png_data_url("quick")}); });
  EXPECT_EQ(quick.wait_for(std::chrono::seconds(3)), std::future_status::ready);
  go = true;
  EXPECT_EQ(quick.get()[0].bytes, "quick");
  for (auto& result : slow) EXPECT_EQ(result.get().first, 400);
}

// What a header declares, or may still send, is reserved before a byte of it is read.
TEST(MediaLoader, MemoryIsReservedBeforeReading) {
  const quern::test::TempDirectory directory;
  write_file(directory / "picture", std::string(900, 'x'));
  LoopbackServer* running = nullptr;
  LoopbackServer server([&](const std::string& request, const auto& write) {
    write(request.starts_with("GET /declared ")
              ? "HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n"
              : "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (!running->stopping()) std::this_thread::sleep_for(milliseconds(1));  // and no body
  });
  running = &server;
  MediaOptions options = loopback_allowed();
  options.max_item_bytes = 1000;
  options.allowed_local_media_path = directory.path().string();
  options.fetch_timeout = milliseconds(60'000);
  const auto budget = std::make_shared<MemoryBudget>(800);
  MediaLoader loader(options, budget);
  for (const std::string& url :
       {server.url("/declared"), server.url("/chunked"),
        "file://" + (directory / "picture").string(), test::png_data_url(std::string(900, 'x'))}) {
    EXPECT_EQ(failure(loader, {url}).first, 429) << url.substr(0, 60);
  }
  EXPECT_EQ(budget->used(), 0U);
  const auto media = loader.load({test::png_data_url(std::string(798, 'x'))});  // no padding
  EXPECT_EQ(budget->used(), 798U);
}

TEST(MemoryBudget, AReservationBecomesAShareOfWhatWasNeeded) {
  const auto budget = std::make_shared<MemoryBudget>(100);
  {
    MemoryBudget::Reservation reservation(budget);
    EXPECT_TRUE(reservation.take(90));
    EXPECT_EQ(budget->take(20), nullptr);
    EXPECT_FALSE(reservation.take(101));
    EXPECT_EQ(budget->used(), 0U);
    EXPECT_TRUE(reservation.take(60));
    const auto share = reservation.keep(10);
    EXPECT_EQ(budget->used(), 10U);
    EXPECT_TRUE(reservation.take(30));
    EXPECT_EQ(reservation.keep(91), nullptr);
    EXPECT_NE(reservation.keep(90), nullptr);
    EXPECT_TRUE(reservation.take(30));
  }
  EXPECT_EQ(budget->used(), 0U);
}

// Two fetches at once: the third waits for its turn. All end at once when their clients go, and
// the slots are free for the next.
TEST(MediaLoader, WhoLosesItsClientEndsEarly) {
  LoopbackServer* running = nullptr;
  std::atomic<bool> hang = true;
  std::atomic<int> dropped = 0;
  LoopbackServer server([&](const std::string&, const auto& write) {
    if (!hang) return static_cast<void>(write(test::ok("quick")));
    write("HTTP/1.1 200 OK\r\nX: ");
    while (!running->stopping() && write("x")) std::this_thread::sleep_for(milliseconds(5));
    ++dropped;
  });
  running = &server;
  MediaOptions options = loopback_allowed();
  options.max_fetches = 2;
  options.fetch_timeout = milliseconds(600'000);
  const auto budget = std::make_shared<MemoryBudget>(1 << 20);
  MediaLoader loader(options, budget);
  std::vector<std::future<int>> ends;
  std::vector<MediaLoader::Cancel> cancels;
  for (int i = 0; i < 3; ++i) {
    auto end = std::make_shared<std::promise<int>>();
    ends.push_back(end->get_future());
    cancels.push_back(loader.load({test::png_data_url("x"), server.url("/")},
                                  [end](std::exception_ptr error, std::vector<Media> media) {
                                    EXPECT_TRUE(media.empty());
                                    try {
                                      std::rethrow_exception(error);
                                    } catch (const ApiError& api_error) {
                                      end->set_value(api_error.status());
                                    }
                                  }));
  }
  while (server.connections() < 2) std::this_thread::sleep_for(milliseconds(1));
  cancels[2]();
  EXPECT_EQ(ends[2].get(), 499) << "it only waited";
  cancels[0]();
  cancels[1]();
  EXPECT_EQ(ends[0].get(), 499);
  EXPECT_EQ(ends[1].get(), 499);
  while (dropped < 2) std::this_thread::sleep_for(milliseconds(1));
  hang = false;
  EXPECT_EQ(loader.load({server.url("/")})[0].bytes, "quick");
  EXPECT_EQ(budget->used(), 0U);
  cancels[0]();  // late: nothing happens
}

TEST(MediaLoader, StopsWhileFetchesRun) {
  LoopbackServer* running = nullptr;
  LoopbackServer server([&](const std::string&, const auto& write) {
    while (!running->stopping()) std::this_thread::sleep_for(milliseconds(1));
    write("");
  });
  running = &server;
  MediaOptions options = loopback_allowed();
  options.max_fetches = 2;
  auto held = std::make_shared<int>(0);
  {
    MediaLoader loader(options, std::make_shared<MemoryBudget>(1 << 20));
    for (int i = 0; i < 5; ++i) {
      loader.load({server.url("/"), test::png_data_url("x")},
                  [held](std::exception_ptr, std::vector<Media>) { ADD_FAILURE(); });
    }
    while (server.connections() < 2) std::this_thread::sleep_for(milliseconds(1));
    loader.stop();
    EXPECT_EQ(failure(loader, {test::png_data_url("x")}).first, 503);
  }
  EXPECT_EQ(held.use_count(), 1) << "what waited was dropped";
}

}  // namespace
}  // namespace quern::server
