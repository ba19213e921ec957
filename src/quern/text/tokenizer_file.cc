// See tokenizer_file.h.
#include "quern/text/tokenizer_file.h"

#include <optional>
#include <unordered_set>

#include "quern/base/error.h"

namespace quern {
namespace {

constexpr std::size_t kMaxDepth = 32;
constexpr std::size_t kMaxKeys = 1024;  // of objects other than the vocabulary: insertion is linear

// Collects model.vocab and model.merges as they come; everything else becomes a small DOM.
class FileReader : public nlohmann::json_sax<Json> {
 public:
  explicit FileReader(TokenizerFile& file) : file_(file) {}

  const Json& rest() const { return rest_; }

  bool null() override { return value(nullptr); }
  bool boolean(bool v) override { return value(v); }
  bool number_integer(number_integer_t v) override { return value(v); }
  bool number_unsigned(number_unsigned_t v) override { return value(v); }
  bool number_float(number_float_t v, const string_t&) override { return value(v); }
  bool binary(binary_t&) override { return false; }

  bool string(string_t& v) override {
    if (section_ != Section::kMerges) return value(std::move(v));
    if (pair_.has_value()) {
      pair_->push_back(std::move(v));
      if (pair_->size() > 2) fail_merge("an array of more than two strings");
    } else {
      add_merge(v);
    }
    return true;
  }

  bool start_object(std::size_t) override {
    if (section_ != Section::kDom) fail_section("an object");
    if (path_ == 2 && at("model", "vocab")) return section_ = Section::kVocab, true;
    return open(Json::object());
  }
  bool end_object() override {
    if (section_ == Section::kVocab) return section_ = Section::kDom, true;
    return close();
  }
  bool start_array(std::size_t) override {
    if (section_ == Section::kMerges && !pair_.has_value()) return pair_.emplace(), true;
    if (section_ != Section::kDom) fail_section("an array");
    if (path_ == 2 && at("model", "merges")) return section_ = Section::kMerges, true;
    return open(Json::array());
  }
  bool end_array() override {
    if (section_ != Section::kMerges) return close();
    if (!pair_.has_value()) return section_ = Section::kDom, true;
    if (pair_->size() != 2) fail_merge(fmt::format("an array of {} strings", pair_->size()));
    file_.merges.emplace_back(std::move((*pair_)[0]), std::move((*pair_)[1]));
    pair_.reset();
    return true;
  }

  bool key(string_t& name) override {
    if (section_ == Section::kVocab) {
      vocab_key_ = std::move(name);
      return true;
    }
    Json& object = *stack_.back();
    if (object.size() >= kMaxKeys) throw Error("an object of more than {} keys", kMaxKeys);
    if (object.contains(name)) throw Error("duplicate key '{}'", name);
    slot_ = &object[name];
    if (path_ <= 2) keys_[path_ - 1] = name;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception&) override {
    throw Error("invalid JSON at byte {}", position);
  }

 private:
  enum class Section { kDom, kVocab, kMerges };

  bool at(std::string_view outer, std::string_view inner) const {
    return stack_.back()->is_object() && keys_[0] == outer && keys_[1] == inner;
  }
  [[noreturn]] void fail_merge(std::string_view found) const {
    throw Error("model.merges[{}]: expected \"a b\" or [\"a\", \"b\"], found {}",
                file_.merges.size(), found);
  }
  [[noreturn]] void fail_section(std::string_view found) const {
    if (section_ == Section::kMerges) fail_merge(found);
    throw Error("model.vocab['{}']: expected an id, found {}", vocab_key_, found);
  }

  void add_merge(std::string_view text) {
    const std::size_t space = text.find(' ');
    if (space == 0 || space + 1 >= text.size() || text.find(' ', space + 1) != text.npos) {
      fail_merge(fmt::format("'{}'", text));
    }
    file_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  template <typename T>
  bool value(T&& v) {
    if (section_ == Section::kDom) {
      place(Json(std::forward<T>(v)));
      return true;
    }
    if (section_ == Section::kMerges) fail_merge("another type");
    if constexpr (std::is_same_v<std::decay_t<T>, number_unsigned_t>) {
      if (v >= static_cast<number_unsigned_t>(kMaxTokenId)) {
        throw Error("model.vocab['{}']: id {} is not below {}", vocab_key_, v, kMaxTokenId);
      }
      file_.vocab.emplace_back(std::move(vocab_key_), static_cast<std::int32_t>(v));
      vocab_key_.clear();
    } else {
      fail_section("another type");
    }
    return true;
  }

  Json* place(Json v) {
    if (stack_.empty()) return &(rest_ = std::move(v));
    if (stack_.back()->is_array()) {
      stack_.back()->push_back(std::move(v));
      return &stack_.back()->back();
    }
    return &(*slot_ = std::move(v));
  }
  bool open(Json container) {
    if (stack_.size() == kMaxDepth) throw Error("nested deeper than {} levels", kMaxDepth);
    stack_.push_back(place(std::move(container)));
    path_ = stack_.size();
    return true;
  }
  bool close() {
    stack_.pop_back();
    path_ = stack_.size();
    return true;
  }

  TokenizerFile& file_;
  Json rest_;
  Section section_ = Section::kDom;
  std::vector<Json*> stack_;
  std::size_t path_ = 0;  // depth of the DOM
  std::string keys_[2];   // the keys that lead to the value at depth 1 and 2
  Json* slot_ = nullptr;  // where the value of the current key goes
  std::string vocab_key_;
  std::optional<std::vector<std::string>> pair_;
};

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  const auto it = object.find(key);
  return it == object.end() ? kNull : *it;
}

bool flag(const Json& object, const char* key, std::string_view where) {
  const Json& value = member(object, key);
  if (value.is_null()) return false;
  if (!value.is_boolean()) throw Error("{}.{}: expected true or false", where, key);
  return value.get<bool>();
}

std::vector<AddedToken> read_added_tokens(const Json& list) {
  std::vector<AddedToken> tokens;
  if (list.is_null()) return tokens;
  if (!list.is_array()) throw Error("added_tokens: expected an array");
  std::unordered_set<std::string> seen;
  for (const Json& entry : list) {
    const std::string where = fmt::format("added_tokens[{}]", tokens.size());
    if (!entry.is_object()) throw Error("{}: expected an object", where);
    const Json& id = member(entry, "id");
    const Json& content = member(entry, "content");
    if (!id.is_number_unsigned() || id.get<std::uint64_t>() >= std::uint64_t{kMaxTokenId}) {
      throw Error("{}.id: expected an integer from 0 to {}", where, kMaxTokenId - 1);
    }
    if (!content.is_string() || content.get_ref<const std::string&>().empty()) {
      throw Error("{}.content: expected a string that is not empty", where);
    }
    if (!seen.insert(content.get<std::string>()).second) {
      throw Error("{}.content: '{}' occurs twice", where, content.get<std::string>());
    }
    tokens.push_back({.id = id.get<std::int32_t>(),
                      .content = content.get<std::string>(),
                      .special = flag(entry, "special", where),
                      .single_word = flag(entry, "single_word", where),
                      .lstrip = flag(entry, "lstrip", where),
                      .rstrip = flag(entry, "rstrip", where),
                      .normalized = flag(entry, "normalized", where)});
  }
  return tokens;
}

// Options of other families must be absent, null, false, "" or [].
void require_off(const Json& object, const char* key, std::string_view where) {
  const Json& value = member(object, key);
  const bool off = value.is_null() || value == false || value == "" || value == 0.0;
  if (!off) throw Error("{}{}: {} is not supported", where, key, value.dump());
}

void check_model(const Json& model) {
  if (!model.is_object()) throw Error("model: expected an object");
  const Json& type = member(model, "type");
  if (!type.is_null() && type != "BPE") {
    throw Error("model.type: {} is not supported, only \"BPE\" is", type.dump());
  }
  for (const char* key :
       {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"}) {
    require_off(model, key, "model.");
  }
}

void check_normalizer(const Json& normalizer) {
  if (normalizer.is_null()) return;
  if (normalizer.is_object() && member(normalizer, "type") == "Sequence" &&
      member(normalizer, "normalizers") == Json::array()) {
    return;
  }
  throw Error("normalizer: {} is not supported, only null is", normalizer.dump());
}

}  // namespace

TokenizerFile parse_tokenizer_file(std::string_view json, std::string_view source) {
  return with_context(source, [&] {
    TokenizerFile file;
    FileReader reader(file);
    refuse_nul(json, "tokenizer.json");
    Json::sax_parse(json, &reader);
    const Json& rest = reader.rest();
    if (!rest.is_object()) throw Error("expected an object");
    check_model(member(rest, "model"));
    check_normalizer(member(rest, "normalizer"));
    const Json& decoder = member(rest, "decoder");
    if (!decoder.is_object() || member(decoder, "type") != "ByteLevel") {
      throw Error("decoder: {} is not supported, only ByteLevel is", decoder.dump());
    }
    // Captured sections leave null in the DOM; anything else is a value of the wrong type.
    for (const char* key : {"vocab", "merges"}) {
      const Json& value = member(member(rest, "model"), key);
      if (!value.is_null())
        throw Error("model.{}: found {} of the wrong type", key, value.type_name());
    }
    if (file.vocab.empty()) throw Error("model.vocab: expected an object that is not empty");
    file.added_tokens = read_added_tokens(member(rest, "added_tokens"));
    file.pre_tokenizer = member(rest, "pre_tokenizer");
    file.ignore_merges = flag(member(rest, "model"), "ignore_merges", "model");
    return file;
  });
}

}  // namespace quern
