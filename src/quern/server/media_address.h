// Which network addresses a server may fetch media from when nobody said more: public ones.
// Must never take an address for public because of the way it is written (IPv4 inside IPv6).
// Proved by tests/server/media_address_test.cc.
#pragma once

#include <boost/asio/ip/address.hpp>

namespace quern::server {

// False for loopback, private, shared, link-local, unique-local, multicast, reserved and
// documentation addresses, and for those where clouds keep metadata; IPv4 inside IPv6 (mapped,
// compatible, NAT64, 6to4) is judged as IPv4.
bool is_public_address(const boost::asio::ip::address& address);

}  // namespace quern::server
