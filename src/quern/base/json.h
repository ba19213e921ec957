// The JSON type of the program (key order kept) and its one guarded parser.
// Must never recurse on hostile depth or accept text behind the value.
// Proved by tests/base/json_test.cc.
#pragma once

#include <cstddef>
#include <nlohmann/json.hpp>
#include <string_view>

namespace quern {

using Json = nlohmann::ordered_json;

struct JsonLimits {
  std::size_t max_depth = 64;
  bool reject_duplicate_keys = true;  // otherwise the last value wins, as in Python
};

// nlohmann's lexer takes a NUL for the end of the text and lets anything follow, so its callers ask
// first. JSON has no NUL byte anywhere.
void refuse_nul(std::string_view text, std::string_view source);

// Parses `text`; `source` names the file or field in errors. Linear in the text, but looking a key up in
// the result scans the object: files with objects of many keys are read through nlohmann's SAX interface.
Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits = {});

}  // namespace quern
