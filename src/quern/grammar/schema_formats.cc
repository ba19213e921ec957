// See schema_formats.h. Days of a month end at 28 (30, 31 where all readers agree); leap seconds
// and times beyond 23:59:59 are left out.
#include "quern/grammar/schema_formats.h"

#include <string>
#include <unordered_map>

namespace quern::grammar {
namespace {

const std::string kDate =
    "[0-9]{3}[1-9]-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|"
    "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))";
const std::string kTime =
    "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?"
    "(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])";
const std::string kLabel = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?";
const std::string kHost = kLabel + "(?:\\." + kLabel + "){0,3}";
const std::string kOctet = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])";
const std::string kIpv4 = kOctet + "(?:\\." + kOctet + "){3}";
const std::string kHex = "[0-9A-Fa-f]";
const std::string kGroup = kHex + "{1,4}";
const std::string kIpv6 = "(?:(?:" + kGroup + ":){7}" + kGroup + "|::(?:" + kGroup +
                          "(?::" + kGroup + "){0,5})?|" + kGroup + "::(?:" + kGroup +
                          "(?::" + kGroup + "){0,4})?|(?:" + kGroup + ":){2}:(?:" + kGroup +
                          "(?::" + kGroup + "){0,3})?)";
const std::string kUriChar = "(?:[A-Za-z0-9._~!$&'()*+,;=:@/-]|%" + kHex + "{2})";
const std::string kUri = "[A-Za-z][A-Za-z0-9+.-]*://" + kHost + "(?::[0-9]{1,4})?(?:/" + kUriChar +
                         "*)?(?:\\?" + kUriChar + "*)?(?:#" + kUriChar + "*)?";
const std::string kUriReference =
    "(?:" + kUri + "|/?" + kUriChar + "*(?:\\?" + kUriChar + "*)?(?:#" + kUriChar + "*)?)";
const std::string kDuration =
    "P(?:[0-9]{1,6}W|(?:[0-9]{1,6}Y(?:[0-9]{1,6}M(?:[0-9]{1,6}D)?)?|[0-9]{1,6}M(?:[0-9]{1,6}D)?|"
    "[0-9]{1,6}D)(?:T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|"
    "[0-9]{1,6}S))?|T(?:[0-9]{1,6}H(?:[0-9]{1,6}M(?:[0-9]{1,6}S)?)?|[0-9]{1,6}M(?:[0-9]{1,6}S)?|"
    "[0-9]{1,6}S))";

std::string whole(const std::string& pattern) { return "^(?:" + pattern + ")$"; }

}  // namespace

std::optional<std::string_view> format_regex(std::string_view format) {
  static const std::unordered_map<std::string_view, std::string> kFormats = {
      {"date", whole(kDate)},
      {"time", whole(kTime)},
      {"date-time", whole(kDate + "T" + kTime)},
      {"duration", whole(kDuration)},
      {"email",
       whole("[A-Za-z0-9_+-]+(?:\\.[A-Za-z0-9_+-]+)*@" + kLabel + "(?:\\." + kLabel + "){1,3}")},
      {"hostname", whole(kHost)},
      {"ipv4", whole(kIpv4)},
      {"ipv6", whole(kIpv6)},
      {"uuid", whole(kHex + "{8}(?:-" + kHex + "{4}){3}-" + kHex + "{12}")},
      {"uri", whole(kUri)},
      {"uri-reference", whole(kUriReference)},
      {"json-pointer", whole("(?:/(?:[^/~]|~[01])*)*")},
  };
  const auto found = kFormats.find(format);
  if (found == kFormats.end()) return {};
  return found->second;
}

}  // namespace quern::grammar
