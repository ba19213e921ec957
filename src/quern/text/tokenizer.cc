// See tokenizer.h.
#include "quern/text/tokenizer.h"

#include <algorithm>
#include <array>
#include <unordered_map>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/text/added_tokens.h"
#include "quern/text/bpe.h"
#include "quern/text/pre_tokenizer.h"
#include "quern/text/tokenizer_file.h"
#include "quern/text/utf8.h"

namespace quern {
namespace {

constexpr std::size_t kMaxTokenizerFileBytes = 256u << 20;

// GPT-2's printable character of each byte: itself where it is printable Latin-1, else U+0100
// onwards.
std::array<char32_t, 256> byte_alphabet() {
  std::array<char32_t, 256> alphabet{};
  char32_t next = 0x100;
  for (char32_t byte = 0; byte < 256; ++byte) {
    const bool printable =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    alphabet[byte] = printable ? byte : next++;
  }
  return alphabet;
}

// Bytes behind a vocabulary entry. An entry with a character outside of the alphabet stands for its
// own UTF-8 (the ByteLevel decoder of `tokenizers`).
class ByteDecoder {
 public:
  ByteDecoder() {
    const auto alphabet = byte_alphabet();
    for (std::size_t byte = 0; byte < 256; ++byte)
      bytes_[alphabet[byte]] = static_cast<std::int16_t>(byte);
  }

  std::string operator()(std::string_view printable) const {
    std::string bytes;
    for (std::size_t at = 0; at < printable.size();) {
      const Utf8Scan scan = scan_utf8(printable.substr(at));
      const bool known = scan.kind == Utf8Scan::Kind::kValid && scan.code_point < bytes_.size() &&
                         bytes_[scan.code_point] >= 0;
      if (!known) return std::string(printable);
      bytes += static_cast<char>(static_cast<unsigned char>(bytes_[scan.code_point]));
      at += scan.length;
    }
    return bytes;
  }

 private:
  std::vector<std::int16_t> bytes_ = std::vector<std::int16_t>(0x100 + 68, -1);  // by code point
};

// Bytes that no valid UTF-8 contains need no token.
bool occurs_in_utf8(std::size_t byte) { return byte != 0xC0 && byte != 0xC1 && byte < 0xF5; }

}  // namespace

struct Tokenizer::Impl {
  struct Token {
    std::string bytes;
    bool exists = false;
    bool special = false;
  };

  explicit Impl(TokenizerFile file)
      : pre_tokenizer(file.pre_tokenizer), ignore_merges(file.ignore_merges) {
    add_vocabulary(file);
    add_merges(file);
    add_added_tokens(std::move(file.added_tokens));
    for (const Token& entry : tokens) longest = std::max(longest, entry.bytes.size());
  }

  Token& token(std::int32_t id) {
    const auto index = static_cast<std::size_t>(id);
    if (index >= tokens.size()) tokens.resize(index + 1);
    return tokens[index];
  }

  void add_vocabulary(const TokenizerFile& file) {
    const ByteDecoder to_bytes;
    for (const auto& [text, id] : file.vocab) {
      Token& entry = token(id);
      if (entry.exists) throw Error("model.vocab: id {} occurs twice, again at '{}'", id, text);
      entry = {.bytes = to_bytes(text), .exists = true};
      if (!printable_ids.emplace(text, id).second) {
        throw Error("model.vocab: '{}' occurs twice", text);
      }
      vocab_ids.emplace(entry.bytes, id);
    }
    const auto alphabet = byte_alphabet();
    std::array<Bpe::Id, 256> byte_tokens{};
    for (std::size_t byte = 0; byte < 256; ++byte) {
      std::string printable;
      append_utf8(printable, alphabet[byte]);
      const auto it = printable_ids.find(printable);
      if (it == printable_ids.end() && occurs_in_utf8(byte)) {
        throw Error("model.vocab: no token '{}' for the byte 0x{:02X}", printable, byte);
      }
      byte_tokens[byte] = it == printable_ids.end() ? -1 : it->second;
    }
    bpe.set_byte_tokens(byte_tokens);
  }

  void add_merges(const TokenizerFile& file) {
    const auto id_of = [&](const std::string& text, std::size_t rank) {
      const auto it = printable_ids.find(text);
      if (it == printable_ids.end()) {
        throw Error("model.merges[{}]: '{}' is not in the vocabulary", rank, text);
      }
      return it->second;
    };
    for (std::size_t rank = 0; rank < file.merges.size(); ++rank) {
      const auto& [left, right] = file.merges[rank];
      bpe.add_merge(id_of(left, rank), id_of(right, rank), id_of(left + right, rank));
    }
    printable_ids = {};  // needed for the merges only
  }

  void add_added_tokens(std::vector<AddedToken> added) {
    std::vector<AddedToken> plain;
    std::vector<AddedToken> normalized;
    for (AddedToken& entry : added) {
      Token& slot = token(entry.id);
      if (slot.exists && slot.bytes != entry.content) {
        throw Error("added_tokens: '{}' has the id {} of another token", entry.content, entry.id);
      }
      slot = {.bytes = entry.content, .exists = true, .special = entry.special};
      added_ids[entry.content] = entry.id;
      takes_space = takes_space || entry.lstrip || entry.rstrip;
      (entry.normalized ? normalized : plain).push_back(std::move(entry));
    }
    plain_added = AddedTokenMatcher(std::move(plain));
    normalized_added = AddedTokenMatcher(std::move(normalized));
  }

  // Added tokens that are not `normalized` are searched first, in the whole text, then the others
  // in what lies between (with no normalizer, the only difference of the two).
  std::vector<TextSpan> split_added(std::string_view text, bool parse_special) const {
    std::vector<TextSpan> first;
    std::vector<TextSpan> spans;
    plain_added.split(text, parse_special, first);
    for (const TextSpan& span : first) {
      if (span.id)
        spans.push_back(span);
      else
        normalized_added.split(span.text, parse_special, spans);
    }
    return spans;
  }

  PreTokenizer pre_tokenizer;
  bool ignore_merges;
  Bpe bpe;
  std::vector<Token> tokens;                                // by id
  std::unordered_map<std::string, std::int32_t> vocab_ids;  // by bytes
  std::unordered_map<std::string, std::int32_t> added_ids;  // by content
  std::unordered_map<std::string, std::int32_t> printable_ids;
  AddedTokenMatcher plain_added;
  AddedTokenMatcher normalized_added;
  std::size_t longest = 0;   // bytes of a token
  bool takes_space = false;  // an added token has lstrip or rstrip
};

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer Tokenizer::load(const std::filesystem::path& dir) {
  const auto path = dir / "tokenizer.json";
  return parse(read_file(path, kMaxTokenizerFileBytes), path.string());
}

Tokenizer Tokenizer::parse(std::string_view json, std::string_view source) {
  TokenizerFile file = parse_tokenizer_file(json, source);
  return with_context(source,
                      [&] { return Tokenizer(std::make_unique<const Impl>(std::move(file))); });
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view utf8, bool parse_special) const {
  if (const std::size_t bad = find_invalid_utf8(utf8); bad != std::string_view::npos) {
    throw Error("text to tokenize is not valid UTF-8 at byte {}", bad);
  }
  std::vector<std::int32_t> out;
  PreTokenizer::Run run(impl_->pre_tokenizer);
  Bpe::Workspace workspace;
  for (const TextSpan& span : impl_->split_added(utf8, parse_special)) {
    if (span.id) {
      out.push_back(*span.id);
      continue;
    }
    for (const std::string_view piece : run.split(span.text)) {
      if (impl_->ignore_merges) {
        if (const auto it = impl_->vocab_ids.find(std::string(piece));
            it != impl_->vocab_ids.end()) {
          out.push_back(it->second);
          continue;
        }
      }
      impl_->bpe.encode(piece, workspace, out);
    }
  }
  return out;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const std::int32_t id : ids) {
    if (!skip_special_tokens || !is_special(id)) bytes += token_bytes(id);
  }
  std::string text;
  drain_utf8(bytes, text, true);
  return text;
}

std::optional<std::size_t> Tokenizer::max_token_bytes() const {
  if (impl_->takes_space || impl_->pre_tokenizer.drops_text()) return std::nullopt;
  return impl_->longest;
}

int Tokenizer::vocab_size() const { return static_cast<int>(impl_->tokens.size()); }

std::optional<std::int32_t> Tokenizer::token_id(std::string_view bytes) const {
  const std::string key(bytes);
  for (const auto* ids : {&impl_->added_ids, &impl_->vocab_ids}) {
    if (const auto it = ids->find(key); it != ids->end()) return it->second;
  }
  return std::nullopt;
}

const std::string& Tokenizer::token_bytes(std::int32_t id) const {
  static const std::string kNone;
  if (id < 0 || id >= vocab_size()) return kNone;
  return impl_->tokens[static_cast<std::size_t>(id)].bytes;
}

bool Tokenizer::is_special(std::int32_t id) const {
  return id >= 0 && id < vocab_size() && impl_->tokens[static_cast<std::size_t>(id)].special;
}

std::string IncrementalDecoder::feed(std::int32_t id) { return feed(std::span(&id, 1)); }

std::string IncrementalDecoder::feed(std::span<const std::int32_t> ids) {
  for (const std::int32_t id : ids) {
    if (!skip_special_tokens_ || !tokenizer_->is_special(id))
      pending_ += tokenizer_->token_bytes(id);
  }
  std::string text;
  drain_utf8(pending_, text, false);
  return text;
}

std::string IncrementalDecoder::finish() {
  std::string text;
  drain_utf8(pending_, text, true);
  return text;
}

}  // namespace quern
