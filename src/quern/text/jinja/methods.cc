// Methods of strings, dicts and lists, and the global functions (see interpreter.h).
#include <algorithm>
#include <array>
#include <ctime>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/jinja/text_tools.h"
#include "quern/text/unicode.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

constexpr Int kMaxRange = 100'000;  // jinja2.sandbox.MAX_RANGE
constexpr std::size_t kMaxTimeFormat = 1000;

std::optional<std::string> characters_argument(const Bound& args) {
  if (args.get(0).is_none()) return std::nullopt;
  return args.text(0);
}

template <bool kLeft, bool kRight>
Value strip_method(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("strip", call, {"chars"});
  return Value(strip(self.bytes(), characters_argument(args), kLeft, kRight));
}

template <bool kFromRight>
Value split_method(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("split", call, {"sep", "maxsplit"});
  return Value::list(
      split(self.bytes(), characters_argument(args), args.integer(1, -1), kFromRight));
}

template <bool kEnd>
Value affix_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args(kEnd ? "endswith" : "startswith", call, {"affix"}, 1);
  const Value affix = args.get(0);
  const auto has = [&](const Value& one) {
    if (one.text() == nullptr)
      throw Error("startswith/endswith first arg must be str or a tuple of str");
    in.step(copy_steps(one.bytes().size()));
    return kEnd ? self.bytes().ends_with(one.bytes()) : self.bytes().starts_with(one.bytes());
  };
  if (const Sequence* s = affix.sequence(); s != nullptr && s->kind == Sequence::Kind::kTuple) {
    return std::any_of(s->items.begin(), s->items.end(), has);
  }
  return has(affix);
}

template <bool kPrefix>
Value remove_affix(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("removeprefix", call, {"affix"}, 1);
  const std::string affix = args.text(0);
  const std::string& text = self.bytes();
  if (kPrefix && text.starts_with(affix)) return Value(text.substr(affix.size()));
  if (!kPrefix && text.ends_with(affix)) return Value(text.substr(0, text.size() - affix.size()));
  return self;
}

// find, rfind, index, rindex: positions are characters.
template <bool kLast, bool kMustExist>
Value find_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args("find", call, {"sub", "start", "end"}, 1);
  const std::string sub = args.text(0);
  const Value part = in.slice(self, args.get(1, 0), args.get(2), {});
  const std::size_t at = kLast ? rfind_bytes(part.bytes(), sub) : find_bytes(part.bytes(), sub);
  if (at == std::string::npos) {
    if (kMustExist) throw Error("substring not found");
    return -1;
  }
  const auto size = static_cast<Int>(self.text()->characters);
  Int start = args.integer(1, 0);
  if (start < 0) start = std::max(Int{0}, start + size);
  return start + static_cast<Int>(count_utf8(std::string_view(part.bytes()).substr(0, at)));
}

template <bool (*kTest)(char32_t)>
Value all_characters(Interpreter& in, const Value& self, CallArgs&) {
  in.step(scan_steps(self.bytes().size()));
  return !self.bytes().empty() && all_of_characters(self.bytes(), kTest);
}

bool is_alphanumeric(char32_t c) { return is_alphabetic(c) || is_decimal(c); }

template <bool kUpper>
Value is_cased(Interpreter& in, const Value& self, CallArgs&) {
  const auto& text = self.bytes();
  in.step(2 * scan_steps(text.size()));
  const bool any =
      !all_of_characters(text, [](char32_t c) { return !(kUpper ? is_upper(c) : is_lower(c)); });
  return any &&
         all_of_characters(text, [](char32_t c) { return !(kUpper ? is_lower(c) : is_upper(c)); });
}

Value join_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args("join", call, {"iterable"}, 1);
  std::string out;
  bool first = true;
  for (const Value& item : in.iterate(args.get(0))) {
    if (item.text() == nullptr)
      throw Error("join: expected str instance, {} found", item.type_name());
    if (!std::exchange(first, false)) out += self.bytes();
    out += item.bytes();
    in.step(copy_steps(self.bytes().size() + item.bytes().size()));
    in.check_size(out.size());
  }
  return Value(std::move(out));
}

Value replace_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args("replace", call, {"old", "new", "count"}, 2);
  return Value(replace(in, self.bytes(), args.text(0), args.text(1), args.integer(2, -1)));
}

template <bool kLast>
Value partition_method(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("partition", call, {"sep"}, 1);
  const std::string separator = args.text(0);
  if (separator.empty()) throw Error("empty separator");
  const std::string& text = self.bytes();
  const std::size_t at = kLast ? rfind_bytes(text, separator) : find_bytes(text, separator);
  if (at == text.npos) {
    return kLast ? Value::tuple({"", "", self}) : Value::tuple({self, "", ""});
  }
  return Value::tuple(
      {Value(text.substr(0, at)), Value(separator), Value(text.substr(at + separator.size()))});
}

Value count_method(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("count", call, {"sub"}, 1);
  const std::string sub = args.text(0);
  if (sub.empty()) return self.text()->characters + 1;
  std::size_t found = 0;
  for (std::size_t at = 0; (at = find_bytes(self.bytes(), sub, at)) != std::string::npos;
       at += sub.size()) {
    spend(1);
    ++found;
  }
  return found;
}

Value splitlines_method(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("splitlines", call, {"keepends"});
  return Value::list(split_lines(self.bytes(), args.flag(0)));
}

Value zfill_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args("zfill", call, {"width"}, 1);
  const Int missing = args.integer(0) - static_cast<Int>(self.text()->characters);
  if (missing <= 0) return self;
  in.check_size(static_cast<std::size_t>(std::min(missing, Int{1} << 40)));
  const std::string& text = self.bytes();
  const std::size_t sign = (text.starts_with('-') || text.starts_with('+')) ? 1 : 0;
  return Value(text.substr(0, sign) + std::string(static_cast<std::size_t>(missing), '0') +
               text.substr(sign));
}

template <int kSide>  // -1 ljust, 0 center, 1 rjust
Value justify_method(Interpreter& in, const Value& self, CallArgs& call) {
  const Bound args("justify", call, {"width", "fillchar"}, 1);
  return Value(justify(in, self, args.integer(0), args.text(1, " "), kSide));
}

Value format_method(Interpreter& in, const Value& self, CallArgs& args) {
  return Value(format_braces(in, self.bytes(), args));
}

template <std::string (*kMap)(std::string_view)>
Value map_method(Interpreter& in, const Value& self, CallArgs&) {
  in.step(scan_steps(self.bytes().size()));
  return Value(kMap(self.bytes()));
}

constexpr std::array<std::pair<std::string_view, Method>, 37> kTextMethods = {{
    {"strip", strip_method<true, true>},
    {"lstrip", strip_method<true, false>},
    {"rstrip", strip_method<false, true>},
    {"split", split_method<false>},
    {"rsplit", split_method<true>},
    {"splitlines", splitlines_method},
    {"startswith", affix_method<false>},
    {"endswith", affix_method<true>},
    {"removeprefix", remove_affix<true>},
    {"removesuffix", remove_affix<false>},
    {"replace", replace_method},
    {"join", join_method},
    {"format", format_method},
    {"find", find_method<false, false>},
    {"rfind", find_method<true, false>},
    {"index", find_method<false, true>},
    {"rindex", find_method<true, true>},
    {"count", count_method},
    {"partition", partition_method<false>},
    {"rpartition", partition_method<true>},
    {"upper", map_method<to_upper>},
    {"lower", map_method<to_lower>},
    {"casefold", map_method<to_lower>},
    {"capitalize", map_method<capitalize>},
    {"title", map_method<python_title>},
    {"swapcase", map_method<swap_case>},
    {"zfill", zfill_method},
    {"ljust", justify_method<-1>},
    {"rjust", justify_method<1>},
    {"center", justify_method<0>},
    {"isdigit", all_characters<is_decimal>},
    {"isdecimal", all_characters<is_decimal>},
    {"isalpha", all_characters<is_alphabetic>},
    {"isalnum", all_characters<is_alphanumeric>},
    {"isspace", all_characters<is_python_space>},
    {"isupper", is_cased<true>},
    {"islower", is_cased<false>},
}};

Value dict_keys(Interpreter& in, const Value& self, CallArgs&) {
  return Value::sequence(Sequence::Kind::kKeys, in.iterate(self));
}
Value dict_values(Interpreter& in, const Value& self, CallArgs&) {
  in.step(self.dict()->items().size());
  Values values;
  for (const auto& item : self.dict()->items()) values.push_back(item.second);
  return Value::sequence(Sequence::Kind::kValues, std::move(values));
}
Value dict_items(Interpreter& in, const Value& self, CallArgs&) {
  Values items;
  for (const auto& [key, value] : self.dict()->items()) items.push_back(Value::tuple({key, value}));
  in.step(items.size());
  return Value::sequence(Sequence::Kind::kItems, std::move(items));
}
Value dict_get(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("get", call, {"key", "default"}, 1);
  const Value* found = self.dict()->find(args.get(0));
  return found != nullptr ? *found : args.get(1);
}
Value list_index(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("index", call, {"value"}, 1);
  const Values& items = self.sequence()->items;
  const auto it = std::find(items.begin(), items.end(), args.get(0));
  if (it == items.end()) throw Error("{} is not in list", args.get(0).repr());
  return static_cast<std::size_t>(it - items.begin());
}
Value list_count(Interpreter&, const Value& self, CallArgs& call) {
  const Bound args("count", call, {"value"}, 1);
  const Values& items = self.sequence()->items;
  return static_cast<std::size_t>(std::count(items.begin(), items.end(), args.get(0)));
}
Value copy_method(Interpreter&, const Value& self, CallArgs&) { return self; }
// The immutable sandbox of transformers and vLLM forbids what changes a value.
Value unsafe_method(Interpreter&, const Value& self, CallArgs&) {
  throw Error("changing a '{}' object is unsafe in a template", self.type_name());
}

Value global_range(Interpreter& in, CallArgs& call) {
  const Bound args("range", call, {"start", "stop", "step"}, 1);
  const Int start = args.has(1) ? args.integer(0) : Int{0};
  const Int stop = args.has(1) ? args.integer(1) : args.integer(0);
  const Int step = args.integer(2, 1);
  if (step == 0) throw Error("range() arg 3 must not be zero");
  const Int span = step > 0 ? stop - start : start - stop;
  const Int size = span <= 0 ? Int{0} : (span - 1) / (step > 0 ? step : -step) + 1;
  if (size > kMaxRange) {
    throw Error("Range too big. The sandbox blocks ranges larger than {} items",
                static_cast<int>(kMaxRange));
  }
  Values items;
  for (Int i = 0; i < size; ++i) items.emplace_back(start + i * step);
  in.step(items.size());
  std::string repr = fmt::format("range({}, {}{})", int_text(start), int_text(stop),
                                 step == 1 ? "" : ", " + int_text(step));
  return Value::sequence(Sequence::Kind::kRange, std::move(items), std::move(repr));
}

Value global_namespace(Interpreter& in, CallArgs& args) {
  auto ns = in.new_namespace();
  const auto put = [&](const std::string& name, const Value& value) {
    if (name.starts_with('_')) throw Error("attribute '{}' of a namespace", name);
    ns->set(name, value);
  };
  for (const Value& value : args.positional) {
    in.step();
    if (value.dict() == nullptr) throw Error("namespace() takes a dict, not {}", value.type_name());
    for (const auto& [key, item] : value.dict()->items()) put(key.str(), item);
  }
  for (const auto& [name, value] : args.keyword) put(name, value);
  return ns;
}

Value global_dict(Interpreter& in, CallArgs& args) {
  auto dict = std::make_shared<Dict>();
  for (const Value& value : args.positional) {
    if (value.dict() != nullptr) {
      in.step(value.dict()->items().size());
      for (const auto& [key, item] : value.dict()->items()) dict->set(key, item);
      continue;
    }
    for (const Value& pair : in.iterate(value)) {
      const Values items = in.iterate(pair);
      if (items.size() != 2) throw Error("dict(): expected pairs, found {} items", items.size());
      dict->set(items[0], items[1]);
    }
  }
  for (auto& [name, value] : args.keyword) dict->set(Value(name), std::move(value));
  return std::shared_ptr<const Dict>(std::move(dict));
}

Value global_raise_exception(Interpreter& in, CallArgs& call) {
  const Bound args("raise_exception", call, {"message"}, 1);
  throw Error("{}", in.text_of(args.get(0)));
}

Value global_strftime_now(Interpreter&, CallArgs& call) {
  const Bound args("strftime_now", call, {"format"}, 1);
  const std::string format = args.text(0);
  if (format.size() > kMaxTimeFormat) {
    throw Error("strftime_now(): a format of at most {} bytes is expected, found {}",
                kMaxTimeFormat, format.size());
  }
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  ::localtime_r(&now, &local);
  std::string buffer(format.size() * 4 + 256, '\0');
  buffer.resize(std::strftime(buffer.data(), buffer.size(), format.c_str(), &local));
  return Value(std::move(buffer));
}

// cycler and joiner keep a position: namespaces with a hidden one would do, callables are simpler.
struct Joiner : Callable {
  Value separator;
  bool used = false;
  Value call(Interpreter&, CallArgs&) override {
    return std::exchange(used, true) ? separator : Value("");
  }
  std::string repr() const override { return "<Joiner>"; }
};
Value global_joiner(Interpreter&, CallArgs& call) {
  const Bound args("joiner", call, {"sep"});
  auto joiner = std::make_shared<Joiner>();
  joiner->separator = args.get(0, ", ");
  joiner->depth = depth_above({joiner->separator});
  return std::shared_ptr<Callable>(std::move(joiner));
}

struct Cycler : Callable, std::enable_shared_from_this<Cycler> {
  Values items;
  std::size_t position = 0;
  struct Action : Callable {
    std::shared_ptr<Cycler> cycler;
    bool is_next = false;
    Value call(Interpreter&, CallArgs&) override {
      if (!is_next) return cycler->position = 0, Value();
      const Value current = cycler->items[cycler->position];
      cycler->position = (cycler->position + 1) % cycler->items.size();
      return current;
    }
    std::string repr() const override { return is_next ? "<cycler.next>" : "<cycler.reset>"; }
  };
  Value call(Interpreter&, CallArgs&) override { throw Error("'Cycler' object is not callable"); }
  Value attribute(std::string_view name) override {
    if (name == "current") return items[position];
    if (name != "next" && name != "reset") return Callable::attribute(name);
    auto action = std::make_shared<Action>();
    action->cycler = shared_from_this();
    action->is_next = name == "next";
    action->depth = depth + 1;
    return std::shared_ptr<Callable>(std::move(action));
  }
  std::string repr() const override { return "<Cycler>"; }
};
Value global_cycler(Interpreter&, CallArgs& args) {
  if (args.positional.empty()) throw Error("at least one item has to be provided");
  auto cycler = std::make_shared<Cycler>();
  cycler->items = args.positional;
  cycler->depth = depth_above(cycler->items);
  cycler->held.grow(cycler->items.size() * sizeof(Value));
  return std::shared_ptr<Callable>(std::move(cycler));
}

constexpr std::array<std::pair<std::string_view, Function>, 7> kGlobals = {{
    {"range", global_range},
    {"namespace", global_namespace},
    {"dict", global_dict},
    {"raise_exception", global_raise_exception},
    {"strftime_now", global_strftime_now},
    {"joiner", global_joiner},
    {"cycler", global_cycler},
}};

template <typename Table>
auto find_in(const Table& table, std::string_view name) -> decltype(table.front().second) {
  for (const auto& [key, value] : table) {
    if (key == name) return value;
  }
  return nullptr;
}

}  // namespace

Method find_text_method(std::string_view name) { return find_in(kTextMethods, name); }

Method find_collection_method(const Value& self, std::string_view name) {
  if (self.dict() != nullptr) {
    static constexpr std::array<std::pair<std::string_view, Method>, 10> kMethods = {{
        {"keys", dict_keys},
        {"values", dict_values},
        {"items", dict_items},
        {"get", dict_get},
        {"copy", copy_method},
        {"pop", unsafe_method},
        {"update", unsafe_method},
        {"clear", unsafe_method},
        {"setdefault", unsafe_method},
        {"popitem", unsafe_method},
    }};
    return find_in(kMethods, name);
  }
  const Sequence* s = self.sequence();
  if (s == nullptr || s->kind > Sequence::Kind::kTuple) return nullptr;
  static constexpr std::array<std::pair<std::string_view, Method>, 10> kMethods = {{
      {"index", list_index},
      {"count", list_count},
      {"copy", copy_method},
      {"append", unsafe_method},
      {"extend", unsafe_method},
      {"insert", unsafe_method},
      {"pop", unsafe_method},
      {"remove", unsafe_method},
      {"reverse", unsafe_method},
      {"sort", unsafe_method},
  }};
  return find_in(kMethods, name);
}

Function find_global(std::string_view name) { return find_in(kGlobals, name); }

}  // namespace quern::jinja
