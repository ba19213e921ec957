// See json.h.
#include "quern/base/json.h"

#include <string>
#include <unordered_map>
#include <vector>

#include "quern/base/error.h"

namespace quern {
namespace {

// Builds the DOM; every event passes depth and duplicate checks first.
class GuardedDom : public nlohmann::json_sax<Json> {
 public:
  GuardedDom(std::string_view source, const JsonLimits& limits)
      : source_(source), limits_(limits) {}

  bool null() override { return place(nullptr), true; }
  bool boolean(bool value) override { return place(value), true; }
  bool number_integer(number_integer_t value) override { return place(value), true; }
  bool number_unsigned(number_unsigned_t value) override { return place(value), true; }
  bool number_float(number_float_t value, const string_t&) override { return place(value), true; }
  bool string(string_t& value) override { return place(std::move(value)), true; }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_array() override { return close(); }

  bool key(string_t& value) override {
    // ordered_json's own look-up and insertion scan all keys: new ones go straight to the end, and
    // where the others stand is remembered.
    auto& members = stack_.back()->get_ref<Json::object_t&>();
    const auto [entry, added] = places_.back().emplace(value, members.size());
    if (added) {
      members.emplace_back(value, nullptr);
    } else if (limits_.reject_duplicate_keys) {
      throw Error("{}: duplicate JSON key '{}'", source_, value);
    }
    slot_ = &(members.begin() + static_cast<std::ptrdiff_t>(entry->second))->second;
    return true;
  }

  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    std::string what = error.what();
    if (const auto at = what.find("syntax error"); at != std::string::npos) what = what.substr(at);
    throw Error("{}: invalid JSON at byte {}: {}", source_, position, what);
  }

  Json take() { return std::move(root_); }

 private:
  template <typename T>
  Json* place(T&& value) {
    if (stack_.empty()) {
      root_ = std::forward<T>(value);
      return &root_;
    }
    Json& parent = *stack_.back();
    if (parent.is_array()) {
      parent.push_back(std::forward<T>(value));
      return &parent.back();
    }
    *slot_ = std::forward<T>(value);
    return slot_;
  }

  bool open(Json container) {
    if (stack_.size() >= limits_.max_depth) {
      throw Error("{}: JSON is nested deeper than {} levels", source_, limits_.max_depth);
    }
    stack_.push_back(place(std::move(container)));
    places_.emplace_back();
    return true;
  }

  bool close() {
    stack_.pop_back();
    places_.pop_back();
    return true;
  }

  std::string_view source_;
  JsonLimits limits_;
  Json root_;
  std::vector<Json*> stack_;
  std::vector<std::unordered_map<std::string, std::size_t>> places_;  // of keys in their object
  Json* slot_ = nullptr;
};

}  // namespace

void refuse_nul(std::string_view text, std::string_view source) {
  const std::size_t position = text.find('\0');
  if (position == std::string_view::npos) return;
  throw Error("{}: invalid JSON at byte {}: a NUL byte", source, position + 1);
}

Json parse_json(std::string_view text, std::string_view source, const JsonLimits& limits) {
  refuse_nul(text, source);
  GuardedDom dom(source, limits);
  Json::sax_parse(text, &dom);
  return dom.take();
}

}  // namespace quern
