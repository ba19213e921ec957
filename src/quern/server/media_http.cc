// See media_http.h.
#include "quern/server/media_http.h"

#include <fmt/format.h>
#include <netdb.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/host_name_verification.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/this_coro.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http.hpp>
#include <boost/beast/ssl/ssl_stream.hpp>
#include <boost/url.hpp>
#include <cctype>
#include <utility>

#include "quern/base/error.h"
#include "quern/server/api_error.h"
#include "quern/server/media_address.h"

namespace quern::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace urls = boost::urls;
using asio::ip::tcp;
using boost::system::error_code;
using Clock = std::chrono::steady_clock;
using Addresses = std::vector<asio::ip::address>;

constexpr std::uint32_t kMaxHeaderBytes = 32 << 10;
constexpr int kMaxInformational = 8;  // 1xx answers before the real one

Addresses system_resolve(const std::string& host) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  Addresses addresses;
  if (::getaddrinfo(host.c_str(), nullptr, &hints, &found) != 0) return addresses;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    tcp::endpoint endpoint;
    if (entry->ai_addrlen > endpoint.capacity()) continue;
    std::copy_n(reinterpret_cast<const char*>(entry->ai_addr), entry->ai_addrlen,
                reinterpret_cast<char*>(endpoint.data()));
    addresses.push_back(endpoint.address());
  }
  ::freeaddrinfo(found);
  return addresses;
}

[[noreturn]] void fail(std::string message) { throw ApiError(400, std::move(message)); }

// A checked http(s) URL.
struct Target {
  urls::url url;
  std::string host;  // lower case, without brackets
  bool tls = false;
  std::uint16_t port = 0;

  std::string host_header() const {
    const std::string name = url.host_type() == urls::host_type::ipv6 ? '[' + host + ']' : host;
    return port == (tls ? 443 : 80) ? name : fmt::format("{}:{}", name, port);
  }
  std::string resource() const {
    std::string text(url.encoded_path());
    if (text.empty()) text = "/";
    if (url.has_query()) text += '?' + std::string(url.encoded_query());
    return text;
  }
};

bool is_host_character(char c) {
  return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '.' || c == '_';
}

std::string host_of(const urls::url& url) {
  std::string host;
  switch (url.host_type()) {
    case urls::host_type::ipv4:
      return url.host_ipv4_address().to_string();
    case urls::host_type::ipv6: {
      const auto bytes = url.host_ipv6_address().to_bytes();
      asio::ip::address_v6::bytes_type copy{};
      std::copy(bytes.begin(), bytes.end(), copy.begin());
      return asio::ip::address_v6(copy).to_string();
    }
    case urls::host_type::name:
      host = url.host();
      break;
    default:
      break;
  }
  for (char& c : host) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  const bool right = !host.empty() && host.size() <= 253 &&
                     std::all_of(host.begin(), host.end(), is_host_character);
  if (!right) fail("The media URL has no valid host name.");
  return host;
}

Target target_of(urls::url url) {
  Target target;
  url.normalize_scheme();
  const std::string scheme(url.scheme());
  if (scheme != "http" && scheme != "https") {
    fail("The URL must be either a HTTP, data or file URL.");
  }
  if (url.has_userinfo()) fail("The media URL must not hold a user name or password.");
  target.tls = scheme == "https";
  target.host = host_of(url);
  target.port = url.has_port() ? url.port_number() : (target.tls ? 443 : 80);
  if (target.port == 0) fail("The media URL has no valid port.");
  target.url = std::move(url);
  return target;
}

Target parse_target(const std::string& text) {
  const auto parsed = urls::parse_uri(text);
  if (!parsed) fail("The media URL is not a valid URL.");
  return target_of(urls::url(*parsed));
}

Target redirect_target(const Target& from, std::string_view location) {
  const auto reference = urls::parse_uri_reference({location.data(), location.size()});
  urls::url resolved;
  if (!reference || !urls::resolve(from.url, *reference, resolved)) {
    fail("The media URL redirects to something that is not a URL.");
  }
  return target_of(std::move(resolved));
}

bool is_redirect(unsigned status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

struct MediaHttp::Impl {
  Impl(MediaHttpOptions http_options, asio::any_io_executor executor)
      : options(std::move(http_options)),
        blocking(std::move(executor)),
        tls(asio::ssl::context::tls_client) {
    if (!options.resolve) options.resolve = system_resolve;
    for (std::string& domain : options.allowed_domains) {
      for (char& c : domain) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    }
    tls.set_options(asio::ssl::context::no_tlsv1 | asio::ssl::context::no_tlsv1_1);
    tls.set_verify_mode(asio::ssl::verify_peer);
    error_code error;
    if (options.ca_file.empty()) {
      tls.set_default_verify_paths(error);
    } else {
      tls.load_verify_file(options.ca_file, error);
    }
    if (error) throw Error("certificates for https media: {}", error.message());
  }

  struct Reply {
    std::string body;
    std::string location;  // not empty: a redirect, whose body is not read
  };

  asio::awaitable<std::string> fetch(std::string text, BeforeReading before_reading) {
    const Clock::time_point deadline = Clock::now() + options.timeout;
    Target target = parse_target(text);
    for (int hop = 0; hop <= options.max_redirects; ++hop) {
      const std::vector<tcp::endpoint> endpoints = co_await endpoints_of(target, deadline);
      std::string trouble;
      try {
        Reply reply = co_await get(target, endpoints, deadline, before_reading);
        if (reply.location.empty()) co_return std::move(reply.body);
        target = redirect_target(target, reply.location);
      } catch (const boost::system::system_error& error) {
        trouble = describe(error.code());
      }
      if (!trouble.empty()) {
        fail(fmt::format("The media at host {} could not be fetched: {}.", target.host, trouble));
      }
    }
    fail(fmt::format("The media URL redirects more than {} times.", options.max_redirects));
  }

  std::string describe(const error_code& error) const {
    if (error == beast::error::timeout || error == asio::error::timed_out) {
      return fmt::format("it took longer than {} s",
                         static_cast<double>(options.timeout.count()) / 1000.0);
    }
    if (error == http::error::body_limit) {
      return fmt::format("it is larger than {} bytes", options.max_bytes);
    }
    if (error == http::error::end_of_stream || error == http::error::partial_message ||
        error == asio::error::eof) {
      return "the connection ended early";
    }
    return error.message();
  }

  // Where to connect for this hop. Names are looked up again at each hop, and what was judged is
  // what is connected to.
  asio::awaitable<std::vector<tcp::endpoint>> endpoints_of(const Target& target,
                                                           Clock::time_point deadline) const {
    const auto& allowed = options.allowed_domains;
    const bool listed = std::find(allowed.begin(), allowed.end(), target.host) != allowed.end();
    if (!allowed.empty() && !listed) {
      fail(
          fmt::format("The URL must be from one of the allowed domains: [{}]. Input URL domain: {}",
                      fmt::join(allowed, ", "), target.host));
    }
    const Addresses addresses = co_await look_up(target.host, deadline);
    if (addresses.empty()) {
      fail(fmt::format("The media at host {} could not be fetched: the host is unknown.",
                       target.host));
    }
    std::vector<tcp::endpoint> endpoints;
    for (const asio::ip::address& address : addresses) {
      if (listed || is_public_address(address)) endpoints.emplace_back(address, target.port);
    }
    if (endpoints.empty()) {
      fail(
          fmt::format("The media at host {} may not be fetched: its address is not public. Set "
                      "`--allowed-media-domains` to allow the host.",
                      target.host));
    }
    co_return endpoints;
  }

  // A look-up cannot be interrupted; past the deadline nobody waits for it any longer.
  asio::awaitable<Addresses> look_up(const std::string& host, Clock::time_point deadline) const {
    error_code error;
    const asio::ip::address literal = asio::ip::make_address(host, error);
    if (!error) {
      Addresses only(1, literal);
      co_return only;
    }
    struct LookUp {
      explicit LookUp(const asio::any_io_executor& executor) : done(executor) {}
      asio::steady_timer done;
      Addresses addresses;
      bool ended = false;
    };
    if (*look_ups >= options.max_look_ups) {
      throw ApiError(429, "The server looks up too many host names. Please try again later.");
    }
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    const auto state = std::make_shared<LookUp>(executor);
    state->done.expires_at(deadline);
    ++*look_ups;
    const std::shared_ptr<void> counted(nullptr, [count = look_ups](void*) { --*count; });
    asio::post(blocking, [state, host, executor, deadline, counted, resolve = options.resolve] {
      if (Clock::now() > deadline) return;  // it waited in vain
      Addresses addresses = resolve(host);
      asio::post(executor, [state, addresses = std::move(addresses)]() mutable {
        state->addresses = std::move(addresses);
        state->ended = true;
        state->done.cancel();
      });
    });
    co_await state->done.async_wait(asio::redirect_error(asio::use_awaitable, error));
    if (!state->ended) {
      fail(fmt::format("The media at host {} could not be fetched: {}.", host,
                       describe(asio::error::timed_out)));
    }
    co_return std::move(state->addresses);
  }

  asio::awaitable<Reply> get(const Target& target, const std::vector<tcp::endpoint>& endpoints,
                             Clock::time_point deadline, const BeforeReading& before_reading) {
    const asio::any_io_executor executor = co_await asio::this_coro::executor;
    if (!target.tls) {
      beast::tcp_stream stream(executor);
      stream.expires_at(deadline);
      co_await stream.async_connect(endpoints, asio::use_awaitable);
      co_return co_await exchange(stream, target, before_reading);
    }
    beast::ssl_stream<beast::tcp_stream> stream(executor, tls);
    stream.set_verify_callback(asio::ssl::host_name_verification(target.host));
    if (SSL_set_tlsext_host_name(stream.native_handle(), target.host.c_str()) != 1) {
      fail("The media URL has no valid host name.");
    }
    beast::get_lowest_layer(stream).expires_at(deadline);
    co_await beast::get_lowest_layer(stream).async_connect(endpoints, asio::use_awaitable);
    co_await stream.async_handshake(asio::ssl::stream_base::client, asio::use_awaitable);
    co_return co_await exchange(stream, target, before_reading);
  }

  template <typename Stream>
  asio::awaitable<Reply> exchange(Stream& stream, const Target& target,
                                  const BeforeReading& before_reading) const {
    http::request<http::empty_body> request(http::verb::get, target.resource(), 11);
    request.set(http::field::host, target.host_header());
    request.set(http::field::user_agent, "quern");
    request.set(http::field::accept, "*/*");
    request.set(http::field::accept_encoding, "identity");
    request.set(http::field::connection, "close");
    co_await http::async_write(stream, request, asio::use_awaitable);

    beast::flat_buffer buffer(kMaxHeaderBytes * 4);
    for (int i = 0; i < kMaxInformational; ++i) {
      http::response_parser<http::string_body> parser;
      parser.header_limit(kMaxHeaderBytes);
      parser.body_limit(options.max_bytes);
      co_await http::async_read_header(stream, buffer, parser, asio::use_awaitable);
      const unsigned status = parser.get().result_int();
      if (status < 200) continue;
      Reply reply;
      if (is_redirect(status)) {
        reply.location = location_of(parser.get());
        co_return reply;
      }
      if (status >= 300 || status == 204) refuse(target, status);
      if (before_reading) {
        const auto declared = parser.content_length();
        before_reading(declared ? static_cast<std::size_t>(*declared) : options.max_bytes);
      }
      co_await http::async_read(stream, buffer, parser, asio::use_awaitable);
      reply.body = std::move(parser.get().body());
      co_return reply;
    }
    fail("The media's server sends no answer.");
  }

  static std::string location_of(const http::response<http::string_body>& response) {
    const auto location = response[http::field::location];
    if (location.empty()) fail("The media URL redirects to nowhere.");
    return std::string(location);
  }

  [[noreturn]] static void refuse(const Target& target, unsigned status) {
    throw ApiError(422, fmt::format("The media at host {} could not be fetched: HTTP status {}.",
                                    target.host, status));
  }

  MediaHttpOptions options;
  asio::any_io_executor blocking;
  asio::ssl::context tls;
  std::shared_ptr<std::atomic<int>> look_ups = std::make_shared<std::atomic<int>>(0);
};

MediaHttp::MediaHttp(MediaHttpOptions options, asio::any_io_executor blocking)
    : impl_(std::make_unique<Impl>(std::move(options), std::move(blocking))) {}

MediaHttp::~MediaHttp() = default;

asio::awaitable<std::string> MediaHttp::fetch(std::string url, BeforeReading before_reading) const {
  return impl_->fetch(std::move(url), std::move(before_reading));
}

}  // namespace quern::server
