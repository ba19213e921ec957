// Parsing of model.safetensors.index.json; see checkpoint.h.
#include <algorithm>
#include <unordered_set>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/json.h"
#include "quern/checkpoint/checkpoint.h"

namespace quern {
namespace {

// The release's index has one level below weight_map's; deeper nesting is not an index.
constexpr std::size_t kMaxDepth = 16;

// A file name that cannot lead out of the directory.
void check_file_name(const std::string& tensor, const std::string& file) {
  const std::filesystem::path path(file);
  const bool inside =
      !file.empty() && path.is_relative() && path.has_filename() &&
      file.find('\0') == std::string::npos &&
      std::none_of(path.begin(), path.end(), [](const auto& part) { return part == ".."; });
  if (!inside)
    throw Error("weight_map: '{}': '{}' is not a file name inside the directory", tensor, file);
}

// Takes weight_map and skips every other value. An index has tens of thousands of keys, which is
// why it is not parsed into an (insertion-ordered) Json object.
class IndexSax : public nlohmann::json_sax<nlohmann::json> {
 public:
  bool start_object(std::size_t) override {
    if (expecting_map_) {
      expecting_map_ = false;
      in_map_ = true;
    } else {
      scalar("an object", /*container=*/depth_ == 0);
    }
    return deeper();
  }

  bool key(string_t& name) override {
    if (in_map_) {
      if (!seen_.insert(name).second) throw Error("weight_map: duplicate tensor name '{}'", name);
      tensor_ = name;
    } else if (depth_ == 1 && name == "weight_map") {
      if (std::exchange(found_, true)) throw Error("duplicate key 'weight_map'");
      expecting_map_ = true;
    }
    return true;
  }

  bool string(string_t& value) override {
    if (!in_map_) return scalar("a string");
    check_file_name(tensor_, value);
    index_.weight_map.emplace_back(std::move(tensor_), value);
    return true;
  }

  bool end_object() override {
    in_map_ = false;
    --depth_;
    return true;
  }

  bool start_array(std::size_t) override { return scalar("an array") && deeper(); }
  bool end_array() override { return --depth_, true; }
  bool null() override { return scalar("null"); }
  bool boolean(bool) override { return scalar("a boolean"); }
  bool number_integer(number_integer_t) override { return scalar("a number"); }
  bool number_unsigned(number_unsigned_t) override { return scalar("a number"); }
  bool number_float(number_float_t, const string_t&) override { return scalar("a number"); }
  bool binary(binary_t&) override { return scalar("binary data"); }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string what = error.what();
    if (const auto at = what.find("syntax error"); at != std::string::npos) what = what.substr(at);
    throw Error("invalid JSON at byte {}: {}", position, what);
  }

  SafetensorsIndex take() {
    if (!found_) throw Error("'weight_map' is missing");
    return std::move(index_);
  }

 private:
  bool deeper() {
    if (++depth_ > kMaxDepth) throw Error("JSON is nested deeper than {} levels", kMaxDepth);
    return true;
  }

  // Any value that is not a file name of weight_map.
  bool scalar(std::string_view found, bool allowed_at_top = false) const {
    if (in_map_) throw Error("weight_map: '{}': expected a file name, found {}", tensor_, found);
    if (expecting_map_) throw Error("weight_map: expected an object, found {}", found);
    if (depth_ == 0 && !allowed_at_top) throw Error("expected a JSON object, found {}", found);
    return true;
  }

  std::size_t depth_ = 0;
  bool expecting_map_ = false;
  bool in_map_ = false;
  bool found_ = false;
  std::string tensor_;
  std::unordered_set<std::string> seen_;
  SafetensorsIndex index_;
};

}  // namespace

SafetensorsIndex parse_safetensors_index(std::string_view text, std::string_view source) {
  return with_context(source, [&] {
    // nlohmann's lexer takes a NUL for the end of the text and would hide what follows.
    if (text.find('\0') != std::string_view::npos) throw Error("NUL inside the JSON text");
    IndexSax sax;
    nlohmann::json::sax_parse(text, &sax);
    return sax.take();
  });
}

}  // namespace quern
