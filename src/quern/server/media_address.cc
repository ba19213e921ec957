// See media_address.h. Ranges: the IANA special-purpose registries (RFC 6890 and its updates).
#include "quern/server/media_address.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <iterator>

namespace quern::server {
namespace {

namespace ip = boost::asio::ip;

struct Range4 {
  std::uint32_t first;
  int bits;
};
constexpr std::uint32_t v4(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
  return a << 24 | b << 16 | c << 8 | d;
}
constexpr Range4 kNotPublic4[] = {
    {v4(0, 0, 0, 0), 8},         // this network
    {v4(10, 0, 0, 0), 8},        // private
    {v4(100, 64, 0, 0), 10},     // shared by carriers; metadata of one cloud
    {v4(127, 0, 0, 0), 8},       // loopback
    {v4(168, 63, 129, 16), 32},  // host services of one cloud, in a public range
    {v4(169, 254, 0, 0), 16},    // link-local; metadata of most clouds
    {v4(172, 16, 0, 0), 12},     // private
    {v4(192, 0, 0, 0), 24},      // protocol assignments; metadata of one cloud
    {v4(192, 0, 2, 0), 24},      // documentation
    {v4(192, 88, 99, 0), 24},    // 6to4 relays
    {v4(192, 168, 0, 0), 16},    // private
    {v4(198, 18, 0, 0), 15},     // benchmarks
    {v4(198, 51, 100, 0), 24},   // documentation
    {v4(203, 0, 113, 0), 24},    // documentation
    {v4(224, 0, 0, 0), 4},       // multicast
    {v4(240, 0, 0, 0), 4},       // reserved, broadcast
};

bool is_public(std::uint32_t address) {
  return std::none_of(std::begin(kNotPublic4), std::end(kNotPublic4), [&](const Range4& range) {
    return (address ^ range.first) >> (32 - range.bits) == 0;
  });
}

std::uint32_t word_at(const ip::address_v6::bytes_type& bytes, std::size_t at) {
  return v4(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
}

bool is_public(const ip::address_v6& address) {
  const auto bytes = address.to_bytes();
  const auto all_zero = [&](std::size_t first, std::size_t last) {
    return std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(first),
                       bytes.begin() + static_cast<std::ptrdiff_t>(last),
                       [](unsigned char byte) { return byte == 0; });
  };
  const std::uint32_t head = word_at(bytes, 0);
  if (all_zero(0, 12))
    return word_at(bytes, 12) > 1 && is_public(word_at(bytes, 12));  // compatible
  if (all_zero(0, 10) && bytes[10] == 0xFF && bytes[11] == 0xFF)
    return is_public(word_at(bytes, 12));
  if (head == 0x0064FF9B && all_zero(4, 12)) return is_public(word_at(bytes, 12));  // NAT64
  if (bytes[0] == 0x20 && bytes[1] == 0x02) return is_public(word_at(bytes, 2));    // 6to4
  // Global unicast is 2000::/3; of it 2001::/23 are protocols (Teredo among them), 2001:db8::/32
  // and 3fff::/20 documentation.
  const bool global = (bytes[0] & 0xE0) == 0x20;
  const bool protocols = (head & 0xFFFFFE00) == 0x20010000;
  const bool documentation = head == 0x20010DB8 || (head & 0xFFFFF000) == 0x3FFF0000;
  return global && !protocols && !documentation;
}

}  // namespace

bool is_public_address(const ip::address& address) {
  return address.is_v4() ? is_public(address.to_v4().to_uint()) : is_public(address.to_v6());
}

}  // namespace quern::server
