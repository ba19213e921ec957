// A tokenizer.json for tests: 256 single bytes (id = byte) and the given merges (ids from 256).
// Must never be used for what m3-tiny's file can show.
#pragma once

#include <fmt/core.h>

#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/text/utf8.h"

namespace quern {

inline Json tiny_tokenizer(const std::vector<std::string>& merges) {
  Json vocab = Json::object();
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    std::string token;
    append_utf8(token, printable ? byte : next++);
    vocab[token] = static_cast<std::uint32_t>(byte);
  }
  for (const std::string& merge : merges) {
    const std::size_t space = merge.find(' ');
    const std::string token = merge.substr(0, space) + merge.substr(space + 1);
    if (!vocab.contains(token)) vocab[token] = vocab.size();
  }
  Json json = Json::parse(
      R"({"normalizer":null,"added_tokens":[],
          "pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},
          "decoder":{"type":"ByteLevel"},"model":{"type":"BPE"}})");
  json["model"]["vocab"] = vocab;
  json["model"]["merges"] = merges;
  return json;
}

}  // namespace quern
