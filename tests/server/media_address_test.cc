// Public and other addresses, at the edges of each range.
#include "quern/server/media_address.h"

#include <gtest/gtest.h>

namespace quern::server {
namespace {

TEST(MediaAddress, OnlyPublicOnesAreTaken) {
  const struct {
    const char* address;
    bool is_public;
  } rows[] = {
      {"1.1.1.1", true},
      {"8.8.8.8", true},
      {"0.0.0.0", false},
      {"0.255.255.255", false},
      {"9.255.255.255", true},
      {"10.0.0.0", false},
      {"10.255.255.255", false},
      {"11.0.0.0", true},
      {"100.63.255.255", true},
      {"100.64.0.0", false},
      {"100.100.100.200", false},
      {"100.127.255.255", false},
      {"100.128.0.0", true},
      {"127.0.0.1", false},
      {"127.255.255.254", false},
      {"128.0.0.1", true},
      {"168.63.129.15", true},
      {"168.63.129.16", false},
      {"169.253.255.255", true},
      {"169.254.169.254", false},
      {"169.255.0.0", true},
      {"172.15.255.255", true},
      {"172.16.0.1", false},
      {"172.31.255.255", false},
      {"172.32.0.0", true},
      {"192.0.0.192", false},
      {"192.0.1.0", true},
      {"192.167.255.255", true},
      {"192.168.1.1", false},
      {"192.169.0.0", true},
      {"198.17.255.255", true},
      {"198.18.0.1", false},
      {"198.20.0.0", true},
      {"223.255.255.255", true},
      {"224.0.0.1", false},
      {"239.255.255.250", false},
      {"255.255.255.255", false},
      {"::", false},
      {"::1", false},
      {"::2", false},
      {"::7f00:1", false},
      {"::ffff:127.0.0.1", false},
      {"::ffff:10.0.0.1", false},
      {"::ffff:169.254.169.254", false},
      {"::ffff:8.8.8.8", true},
      {"::fffe:8.8.8.8", false},
      {"64:ff9b::7f00:1", false},
      {"64:ff9b::808:808", true},
      {"64:ff9b:1::808:808", false},
      {"100::1", false},
      {"2001::1", false},
      {"2001:db8::1", false},
      {"2001:4860:4860::8888", true},
      {"2002:7f00:1::", false},
      {"2002:a9fe:a9fe::1", false},
      {"2002:808:808::1", true},
      {"2606:4700::1111", true},
      {"3fff::1", false},
      {"fc00::1", false},
      {"fd00:ec2::254", false},
      {"fe80::1", false},
      {"fec0::1", false},
      {"ff02::1", false},
      {"4000::1", false},
  };
  for (const auto& row : rows) {
    EXPECT_EQ(is_public_address(boost::asio::ip::make_address(row.address)), row.is_public)
        << row.address;
  }
}

}  // namespace
}  // namespace quern::server
