// Fetches against servers on loopback, with a resolver that says what the test wants.
#include "quern/server/media_http.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/asio/co_spawn.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>
#include <map>
#include <memory>

#include "quern/server/api_error.h"
#include "tests/server/media_server.h"
#include "tests/support/temp_directory.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;
using test::LoopbackServer;
using test::ok;
using test::redirect;
using ::testing::HasSubstr;

struct Fetched {
  int status = 200;
  std::string text;  // the body, or the error
};

class MediaHttpTest : public testing::Test {
 protected:
  // Names that tests give; each look-up takes the next list and keeps the last.
  std::map<std::string, std::vector<std::vector<std::string>>> names;
  std::map<std::string, std::size_t> look_ups;

  Fetched fetch(const std::string& url, MediaHttpOptions options) {
    options.resolve = [this](const std::string& host) {
      std::vector<asio::ip::address> found;
      const auto entry = names.find(host);
      if (entry == names.end()) return found;
      const std::size_t turn = std::min(look_ups[host]++, entry->second.size() - 1);
      for (const auto& text : entry->second[turn]) found.push_back(asio::ip::make_address(text));
      return found;
    };
    asio::thread_pool blocking(2);
    asio::io_context context;
    const MediaHttp http(options, blocking.get_executor());
    auto result = asio::co_spawn(context, http.fetch(url), asio::use_future);
    context.run();
    blocking.join();
    try {
      return {200, result.get()};
    } catch (const ApiError& error) {
      return {error.status(), error.what()};
    }
  }
  static MediaHttpOptions allow(std::vector<std::string> domains) {
    MediaHttpOptions options;
    options.allowed_domains = std::move(domains);
    return options;
  }
};

TEST_F(MediaHttpTest, FetchesFromAHostAllowedByName) {
  std::string seen;
  LoopbackServer server([&](const std::string& request, const auto& write) {
    seen = request;
    write("HTTP/1.1 103 Early Hints\r\n\r\n" + ok("picture"));
  });
  names["images.test"] = {{"127.0.0.1"}};
  const Fetched got =
      fetch(server.url("/a%20b?x=1&y=2#frag", "Images.TEST"), allow({"IMAGES.test"}));
  EXPECT_EQ(got.text, "picture");
  EXPECT_THAT(seen, HasSubstr("GET /a%20b?x=1&y=2 HTTP/1.1\r\n"));
  EXPECT_THAT(seen, HasSubstr("Host: images.test:" + std::to_string(server.port()) + "\r\n"));
}

TEST_F(MediaHttpTest, AddressesThatAreNotPublicAreRefused) {
  LoopbackServer server([](const std::string&, const auto& write) { write(ok("secret")); });
  const std::string port = ":" + std::to_string(server.port()) + "/";
  names["inside.test"] = {{"127.0.0.1"}};
  names["mapped.test"] = {{"::ffff:127.0.0.1"}};
  names["2130706433"] = {{"127.0.0.1"}};
  names["0x7f.1"] = {{"127.0.0.1"}};
  names["localhost"] = {{"127.0.0.1", "::1"}};
  names["metadata.test"] = {{"169.254.169.254"}};
  names["localhost."] = {{"127.0.0.1"}};
  for (const char* host :
       {"127.0.0.1", "localhost", "localhost.", "LOCALHOST", "inside.test", "mapped.test", "[::1]",
        "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "0.0.0.0", "2130706433", "0x7f.1", "10.1.2.3",
        "169.254.169.254", "metadata.test", "[fd00:ec2::254]", "[fe80::1]"}) {
    const Fetched got = fetch("http://" + std::string(host) + port, {});
    EXPECT_EQ(got.status, 400) << host;
    EXPECT_THAT(got.text, HasSubstr("its address is not public")) << host;
  }
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(MediaHttpTest, OtherHostsThanTheAllowedOnesAreRefused) {
  LoopbackServer server([](const std::string&, const auto& write) { write(ok("x")); });
  EXPECT_EQ(fetch(server.url("/", "other.test"), allow({"a.test", "b.test"})).text,
            "The URL must be from one of the allowed domains: [a.test, b.test]. Input URL domain: "
            "other.test");
  EXPECT_THAT(fetch(server.url("/"), allow({"a.test"})).text, HasSubstr("allowed domains"));
  EXPECT_THAT(fetch(server.url("/", "a.test.evil.test"), allow({"a.test"})).text,
              HasSubstr("allowed domains"));
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(MediaHttpTest, RedirectsAreFollowedAndJudgedAgain) {
  LoopbackServer inside([](const std::string&, const auto& write) { write(ok("secret")); });
  std::string to;
  LoopbackServer server([&](const std::string& request, const auto& write) {
    write(request.starts_with("GET /end ") ? ok("end") : redirect(to));
  });
  names["a.test"] = {{"127.0.0.1"}};
  const auto through = [&](const std::string& target) {
    to = target;
    return fetch(server.url("/start", "a.test"), allow({"a.test"}));
  };
  EXPECT_EQ(through("/end").text, "end");
  EXPECT_EQ(through("end").text, "end");
  EXPECT_EQ(through("//a.test:" + std::to_string(server.port()) + "/end").text, "end");
  EXPECT_EQ(through(server.url("/end", "a.test")).text, "end");
  EXPECT_THAT(through("/start").text, HasSubstr("redirects more than 5 times"));
  for (const std::string& target :
       {inside.url("/"), inside.url("/", "localhost"), inside.url("/", "[::1]"),
        std::string("http://169.254.169.254/latest/meta-data")}) {
    const Fetched got = through(target);
    EXPECT_EQ(got.status, 400) << target;
    EXPECT_THAT(got.text, HasSubstr("allowed domains")) << target;
  }
  EXPECT_THAT(through("file:///etc/passwd").text, HasSubstr("HTTP, data or file"));
  EXPECT_THAT(through("gopher://a.test/").text, HasSubstr("HTTP, data or file"));
  EXPECT_THAT(through("http://").text, HasSubstr("no valid host"));
  EXPECT_THAT(through("http://[").text, HasSubstr("not a URL"));
  EXPECT_EQ(inside.connections(), 0);
}

// The first answer of the name is public, the second is not: each hop looks up and judges anew.
TEST_F(MediaHttpTest, ANameThatChangesItsAddressGainsNothing) {
  LoopbackServer server([](const std::string&, const auto& write) { write(ok("secret")); });
  names["rebind.test"] = {{"127.0.0.1"}, {"93.184.216.34"}};
  EXPECT_THAT(fetch(server.url("/", "rebind.test"), {}).text, HasSubstr("not public"));
  EXPECT_EQ(look_ups["rebind.test"], 1U) << "one look-up a hop";
  // Public and private mixed: the private one is not tried.
  names["mixed.test"] = {{"127.0.0.1", "192.0.2.1"}};
  EXPECT_THAT(fetch(server.url("/", "mixed.test"), {}).text, HasSubstr("not public"));
  EXPECT_EQ(server.connections(), 0);
}

TEST_F(MediaHttpTest, SizeTimeAndFormHaveLimits) {
  const auto answer_with = [&](const LoopbackServer::Answer& answer) {
    LoopbackServer server(answer);
    names["a.test"] = {{"127.0.0.1"}};
    MediaHttpOptions options = allow({"a.test"});
    options.max_bytes = 1000;
    options.timeout = milliseconds(300);
    return fetch(server.url("/", "a.test"), options);
  };
  const auto fixed = [&](const std::string& bytes) {
    return answer_with([bytes](const std::string&, const auto& write) { write(bytes); });
  };
  EXPECT_EQ(fixed(ok(std::string(1000, 'x'))).text.size(), 1000U);
  EXPECT_THAT(fixed(ok(std::string(1001, 'x'))).text, HasSubstr("larger than 1000 bytes"));
  EXPECT_THAT(fixed("HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n").text,
              HasSubstr("larger than 1000 bytes"));
  EXPECT_EQ(fixed("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n").text,
            "hi");
  EXPECT_EQ(fixed("HTTP/1.0 200 OK\r\n\r\nhi").text, "hi") << "ends with the connection";
  const Fetched endless = answer_with([](const std::string&, const auto& write) {
    write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    while (write("64\r\n" + std::string(100, 'x') + "\r\n")) {
    }
  });
  EXPECT_THAT(endless.text, HasSubstr("larger than 1000 bytes"));
  const Fetched slow = answer_with([](const std::string&, const auto& write) {
    write("HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n");
    for (int i = 0; i < 100 && write("x"); ++i) std::this_thread::sleep_for(milliseconds(10));
  });
  EXPECT_EQ(slow.status, 400);
  EXPECT_THAT(slow.text, HasSubstr("took longer than 0.3 s"));
  EXPECT_THAT(fixed("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").text,
              HasSubstr("ended early"));
  EXPECT_EQ(fixed("").status, 400);
  EXPECT_EQ(fixed("SSH-2.0-x\r\n").status, 400);
  EXPECT_EQ(fixed("HTTP/1.1 200 OK\r\nX: " + std::string(100'000, 'y') + "\r\n\r\n").status, 400);
  EXPECT_EQ(fixed("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").status, 422);
  EXPECT_EQ(fixed("HTTP/1.1 500 Broken\r\nContent-Length: 0\r\n\r\n").status, 422);
  EXPECT_EQ(fixed("HTTP/1.1 302 Moved\r\nContent-Length: 0\r\n\r\n").status, 400);
}

TEST_F(MediaHttpTest, ALookUpThatHangsCostsNoMoreThanTheTime) {
  MediaHttpOptions options;
  options.timeout = milliseconds(100);
  options.resolve = [](const std::string&) {
    std::this_thread::sleep_for(milliseconds(400));
    return std::vector<asio::ip::address>{};
  };
  asio::thread_pool blocking(1);
  asio::io_context context;
  const MediaHttp http(options, blocking.get_executor());
  auto result = asio::co_spawn(context, http.fetch("http://slow.test/"), asio::use_future);
  const auto begin = std::chrono::steady_clock::now();
  context.run();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, milliseconds(350));
  EXPECT_THROW(result.get(), ApiError);
  blocking.join();
}

TEST_F(MediaHttpTest, LookUpsHaveALimit) {
  MediaHttpOptions options;
  options.max_look_ups = 1;
  options.resolve = [](const std::string&) {
    std::this_thread::sleep_for(milliseconds(50));
    return std::vector<asio::ip::address>{};
  };
  asio::thread_pool blocking(2);
  asio::io_context context;
  const MediaHttp http(options, blocking.get_executor());
  std::vector<std::future<std::string>> results;
  for (int i = 0; i < 2; ++i)
    results.push_back(asio::co_spawn(context, http.fetch("http://slow.test/"), asio::use_future));
  context.run();
  std::vector<int> statuses;
  for (auto& result : results) {
    try {
      result.get();
    } catch (const ApiError& error) {
      statuses.push_back(error.status());
    }
  }
  EXPECT_THAT(statuses, testing::ElementsAre(400, 429));
  blocking.join();
}

TEST_F(MediaHttpTest, UrlsThatAreNone) {
  for (const char* url :
       {"http://", "http:///x", "http://a b/", "http://a\r\nHost: b/", "http://user:pw@a.test/",
        "http://a.test:99999/", "http://a.test:0/", "http://a%00.test/", "http://[::1/",
        "http://[v1.x]/", "http://\xC3\xA4.test/", "https://"}) {
    EXPECT_EQ(fetch(url, {}).status, 400) << url;
  }
  EXPECT_THAT(fetch("http://nowhere.test/", {}).text, HasSubstr("the host is unknown"));
}

TEST_F(MediaHttpTest, CertificatesAreVerified) {
  const quern::test::TempDirectory directory;
  SSL_CTX* tls = test::make_tls("good.test", directory / "cert.pem");
  {
    LoopbackServer server([](const std::string&, const auto& write) { write(ok("sealed")); }, tls);
    names["good.test"] = names["evil.test"] = {{"127.0.0.1"}};
    MediaHttpOptions options = allow({"good.test", "evil.test"});
    options.timeout = milliseconds(2000);
    EXPECT_THAT(fetch(server.url("/", "good.test"), options).text, HasSubstr("certificate"))
        << "signed by nobody that the system knows";
    options.ca_file = directory / "cert.pem";
    EXPECT_EQ(fetch(server.url("/", "good.test"), options).text, "sealed");
    EXPECT_THAT(fetch(server.url("/", "evil.test"), options).text, HasSubstr("certificate"))
        << "the name does not match";
  }
  SSL_CTX_free(tls);
}

}  // namespace
}  // namespace quern::server
