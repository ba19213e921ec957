// See added_tokens.h.
#include "quern/text/added_tokens.h"

#include <algorithm>
#include <utility>

#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

char32_t first_character(std::string_view text) { return scan_utf8(text).code_point; }

std::size_t last_character_offset(std::string_view text) {
  std::size_t at = text.size() - 1;
  while (at > 0 && (static_cast<unsigned char>(text[at]) & 0xC0) == 0x80) --at;
  return at;
}

bool stands_alone(std::string_view text, std::size_t begin, std::size_t end) {
  const std::string_view before = text.substr(0, begin);
  const std::string_view after = text.substr(end);
  const bool word_before =
      !before.empty() && is_word(first_character(before.substr(last_character_offset(before))));
  return !word_before && (after.empty() || !is_word(first_character(after)));
}

std::size_t skip_space_back(std::string_view text, std::size_t begin) {
  while (begin > 0) {
    const std::size_t at = last_character_offset(text.substr(0, begin));
    if (!is_white_space(first_character(text.substr(at)))) break;
    begin = at;
  }
  return begin;
}

std::size_t skip_space(std::string_view text, std::size_t end) {
  while (end < text.size()) {
    const Utf8Scan scan = scan_utf8(text.substr(end));
    if (!is_white_space(scan.code_point)) break;
    end += scan.length;
  }
  return end;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens) : tokens_(std::move(tokens)) {
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    std::uint32_t node = 0;
    for (const char c : tokens_[i].content) {
      const auto [it, added] =
          trie_[node].next.emplace(c, static_cast<std::uint32_t>(trie_.size()));
      node = it->second;
      if (added) trie_.emplace_back();
    }
    trie_[node].token = static_cast<std::int32_t>(i);
    first_.set(static_cast<unsigned char>(tokens_[i].content.front()));
  }
}

const AddedToken* AddedTokenMatcher::match(std::string_view text, std::size_t at) const {
  const AddedToken* longest = nullptr;
  std::uint32_t node = 0;
  for (; at < text.size(); ++at) {
    const auto it = trie_[node].next.find(text[at]);
    if (it == trie_[node].next.end()) break;
    node = it->second;
    if (trie_[node].token >= 0) longest = &tokens_[static_cast<std::size_t>(trie_[node].token)];
  }
  return longest;
}

void AddedTokenMatcher::split(std::string_view text, bool parse_special,
                              std::vector<TextSpan>& out) const {
  std::size_t done = 0;  // everything in front is in `out`
  for (std::size_t at = 0; at < text.size();) {
    const AddedToken* token =
        first_.test(static_cast<unsigned char>(text[at])) ? match(text, at) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    std::size_t begin = at;
    std::size_t end = at + token->content.size();
    at = end;  // a match that is discarded is still passed over
    if (token->special && !parse_special) continue;
    if (token->single_word && !stands_alone(text, begin, end)) continue;
    if (begin < done) continue;  // starts in the white space that the token before took
    if (token->lstrip) begin = std::max(skip_space_back(text, begin), done);
    if (token->rstrip) end = skip_space(text, end);
    if (done < begin) out.push_back({text.substr(done, begin - done), std::nullopt});
    out.push_back({text.substr(begin, end - begin), token->id});
    done = end;
  }
  if (done < text.size()) out.push_back({text.substr(done), std::nullopt});
}

}  // namespace quern
