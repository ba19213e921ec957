// Reads the parsers' vectors, in which § stands for the namespace marker of tool calls.
// Must never change anything else in them.
// Proved by use.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "quern/base/file.h"
#include "quern/base/json.h"
#include "quern/text/tool_parser.h"

namespace quern::test {

inline Json read_vectors(const std::string& name) {
  return parse_json(read_file(QUERN_SOURCE_DIR "/tests/golden/text/" + name, 1 << 20), name);
}

inline const std::string kMarker(kToolNamespace);

inline std::string with_markers(std::string text) {
  constexpr std::string_view kShort = "\u00a7";
  for (std::size_t at = 0; (at = text.find(kShort, at)) != std::string::npos;) {
    text.replace(at, kShort.size(), kToolNamespace);
    at += kToolNamespace.size();
  }
  return text;
}

// The text in pieces of one byte each.
inline std::vector<std::string> single_bytes(const std::string& text) {
  std::vector<std::string> pieces;
  for (const char c : text) pieces.emplace_back(1, c);
  return pieces;
}

}  // namespace quern::test
