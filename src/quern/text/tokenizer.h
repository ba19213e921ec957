// Byte-level BPE tokenizer read from a Hugging Face tokenizer.json, and decoding piece by piece.
// Must never emit invalid UTF-8, nor take more than O(n log n) time for a text of n bytes.
// Proved by tests/text/tokenizer_test.cc and tests/text/tokenizer_golden_test.cc.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

// Immutable after loading: all const methods may be called from several threads at once.
class Tokenizer {
 public:
  // Reads DIR/tokenizer.json.
  static Tokenizer load(const std::filesystem::path& dir);
  // `source` names the text in errors.
  static Tokenizer parse(std::string_view json, std::string_view source);

  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // Token ids of `utf8`; nothing is added in front or behind (add_special_tokens = false of the
  // peer). With `parse_special` false, special tokens written in the text become ordinary text;
  // added tokens that are not special are recognised either way. Throws Error when the text is not
  // valid UTF-8.
  std::vector<std::int32_t> encode(std::string_view utf8, bool parse_special = true) const;

  // Bytes of the tokens with each invalid UTF-8 sequence replaced by U+FFFD. Ids without a token
  // add nothing, as in the peer.
  std::string decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const;

  // Largest id + 1. The model's embedding may have more rows (padding).
  int vocab_size() const;
  // A text of more than n times this many bytes has more than n tokens. None when there is no such
  // number: added tokens take the white space beside them, or a pre-tokenizer removes text.
  std::optional<std::size_t> max_token_bytes() const;
  // Id of a token by its text: the content of an added token, or the bytes of a vocabulary entry.
  std::optional<std::int32_t> token_id(std::string_view bytes) const;
  // Raw bytes of a token, possibly part of a UTF-8 character; empty for an id without a token.
  const std::string& token_bytes(std::int32_t id) const;
  // True for added tokens flagged special: those that skip_special_tokens drops.
  bool is_special(std::int32_t id) const;

 private:
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

// Turns a stream of ids into text. Each call returns the text that became complete; the
// concatenation of all results and finish() equals Tokenizer::decode of all ids. Holds at most
// three bytes back. Not thread-safe; the tokenizer must outlive it.
class IncrementalDecoder {
 public:
  IncrementalDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(&tokenizer), skip_special_tokens_(skip_special_tokens) {}

  std::string feed(std::int32_t id);
  std::string feed(std::span<const std::int32_t> ids);
  // The end of the stream: an incomplete character becomes U+FFFD.
  std::string finish();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_tokens_;
  std::string pending_;  // prefix of one UTF-8 character
};

}  // namespace quern
