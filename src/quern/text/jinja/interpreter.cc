// See interpreter.h.
#include "quern/text/jinja/interpreter.h"

#include <algorithm>

#include "quern/base/error.h"
#include "quern/text/utf8.h"

namespace quern::jinja {
namespace {

struct BoundMethod : Callable {
  Value self;
  Method method;
  std::string name;
  BoundMethod(Value object, Method function, std::string_view title)
      : self(std::move(object)), method(function), name(title) {
    depth = depth_above({self});
  }
  Value call(Interpreter& in, CallArgs& args) override { return method(in, self, args); }
  std::string repr() const override { return fmt::format("<built-in method {}>", name); }
};

struct GlobalFunction : Callable {
  Function function;
  std::string name;
  GlobalFunction(Function f, std::string_view title) : function(f), name(title) {}
  Value call(Interpreter& in, CallArgs& args) override { return function(in, args); }
  std::string repr() const override { return fmt::format("<function {}>", name); }
};

}  // namespace

Interpreter::Interpreter(const RenderOptions& options, const Json& context)
    : options_(options), budget_(options_), scope_(std::make_shared<Scope>(nullptr)) {
  if (!context.is_object()) throw Error("the context of a template must be an object");
  for (const auto& [key, value] : context.items()) {
    scope_->variables.emplace_back(key, Value::from_json(value));
  }
}

Interpreter::~Interpreter() {
  for (const auto& scope : kept_scopes_) scope->variables.clear();
  for (const auto& ns : namespaces_) ns->attributes.clear();
}

std::string Interpreter::render(const Tree& tree) {
  const auto global = scope_;
  return capture([&] { in_scope(global, [&] { return run(tree.body); }); });
}

void Interpreter::write(std::string_view text) {
  check_size(out_->text.size() + text.size());
  step(copy_steps(text.size()));
  out_->held.grow(text.size());
  out_->text += text;
}

Flow Interpreter::run(const Body& body) {
  for (const StmtPtr& statement : body) {
    step();
    line_ = statement->line;
    if (const Flow flow = statement->run(*this); flow != Flow::kNext) return flow;
  }
  return Flow::kNext;
}

Value Interpreter::lookup(const std::string& name) const {
  for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [key, value] : scope->variables) {
      if (key == name) return value;
    }
  }
  if (const Function function = find_global(name)) {
    return std::shared_ptr<Callable>(std::make_shared<GlobalFunction>(function, name));
  }
  return Value::undefined(fmt::format("'{}' is undefined", name));
}

void Interpreter::declare(std::string_view name, Value value) {
  for (auto& [key, slot] : scope_->variables) {
    if (key == name) {
      slot = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name, std::move(value));
}

void Interpreter::assign(const Target& target, const Value& value) {
  if (target.is_tuple) {
    const Values items = iterate(defined(value));
    if (items.size() != target.items.size()) {
      throw Error("expected {} values to unpack, found {}", target.items.size(), items.size());
    }
    for (std::size_t i = 0; i < items.size(); ++i) assign(target.items[i], items[i]);
  } else if (target.attribute.empty()) {
    declare(target.name, value);
  } else {
    const Value object = lookup(target.name);
    if (object.ns() == nullptr)
      throw Error("cannot assign attribute on non-namespace object '{}'", target.name);
    if (target.attribute.starts_with('_'))
      throw Error("attribute '{}' of a namespace", target.attribute);
    object.ns()->set(target.attribute, value);
  }
}

std::shared_ptr<Namespace> Interpreter::new_namespace() {
  return namespaces_.emplace_back(std::make_shared<Namespace>());
}

const Value& Interpreter::defined(const Value& value) const {
  if (value.undefined() != nullptr) throw Error("{}", value.undefined()->message);
  return value;
}

std::string Interpreter::text_of(const Value& value) {
  if (strict()) defined(value);
  if (value.text() != nullptr) step(copy_steps(value.bytes().size()));
  return value.str();
}

bool Interpreter::truth(const Value& value) const {
  if (strict()) defined(value);
  return value.truthy();
}

Value Interpreter::get_attribute(const Value& object, std::string_view name) {
  defined(object);
  // The sandbox: undefined, with a message for whoever uses it.
  if (name.starts_with("__")) {
    return Value::undefined(fmt::format("access to attribute '{}' is unsafe", name));
  }
  Method method = nullptr;
  if (object.text() != nullptr)
    method = find_text_method(name);
  else if (object.callable() != nullptr)
    return object.callable()->attribute(name);
  else
    method = find_collection_method(object, name);
  if (method != nullptr) {
    return std::shared_ptr<Callable>(std::make_shared<BoundMethod>(object, method, name));
  }
  if (object.dict() != nullptr) {
    if (const Value* found = object.dict()->find(Value(name))) return *found;
  }
  if (object.ns() != nullptr) {
    if (const Value* found = object.ns()->find(name)) return *found;
  }
  return Value::undefined(
      fmt::format("'{} object' has no attribute '{}'", object.type_name(), name));
}

Value Interpreter::get_item(const Value& object, const Value& key) {
  defined(object);
  defined(key);
  const auto index = [&](std::size_t size) -> std::optional<std::size_t> {
    const Int at = key.as_int() < 0 ? key.as_int() + static_cast<Int>(size) : key.as_int();
    if (at < 0 || at >= static_cast<Int>(size)) return std::nullopt;
    return static_cast<std::size_t>(at);
  };
  if (const Dict* dict = object.dict()) {
    if (const Value* found = dict->find(key)) return *found;
  } else if (const Sequence* s = object.sequence(); s != nullptr && key.is_int()) {
    if (s->kind <= Sequence::Kind::kRange) {
      if (const auto at = index(s->items.size())) return s->items[*at];
      return Value::undefined(
          fmt::format("'{} object' has no element {}", object.type_name(), key.str()));
    }
  } else if (const Text* text = object.text(); text != nullptr && key.is_int()) {
    if (index(text->characters)) {
      const Int next = key.as_int() == -1 ? static_cast<Int>(text->characters) : key.as_int() + 1;
      return slice(object, key, next, {});
    }
  }
  if (key.text() != nullptr) return get_attribute(object, key.bytes());
  return Value::undefined(
      fmt::format("'{} object' has no element {}", object.type_name(), key.repr()));
}

Value Interpreter::call(const Value& callee, CallArgs& args) {
  defined(callee);
  step();
  if (callee.callable() == nullptr) throw Error("'{}' object is not callable", callee.type_name());
  return callee.callable()->call(*this, args);
}

Value Interpreter::filter(const std::string& name, const Value& input, CallArgs& args) {
  Filter function = find_text_filter(name);
  if (function == nullptr) function = find_sequence_filter(name);
  if (function == nullptr) throw Error("no filter named '{}'", name);
  step();
  return function(*this, input, args);
}

bool Interpreter::test(const std::string& name, const Value& input, CallArgs& args) {
  const Test function = find_test(name);
  if (function == nullptr) throw Error("no test named '{}'", name);
  step();
  return function(*this, input, args);
}

std::optional<Int> Interpreter::length(const Value& value) const {
  if (value.undefined() != nullptr && !strict()) return Int{0};
  if (value.text() != nullptr) return static_cast<Int>(value.text()->characters);
  if (value.dict() != nullptr) return static_cast<Int>(value.dict()->items().size());
  const Sequence* s = value.sequence();
  if (s == nullptr || s->kind == Sequence::Kind::kGenerator) return std::nullopt;
  return static_cast<Int>(s->items.size());
}

Values Interpreter::iterate(const Value& value) {
  if (value.undefined() != nullptr) {
    if (strict()) defined(value);
    return {};
  }
  Values items;
  if (const Sequence* s = value.sequence()) {
    step(s->items.size() - s->taken);
    items.assign(s->items.begin() + static_cast<std::ptrdiff_t>(s->taken), s->items.end());
    if (s->kind == Sequence::Kind::kGenerator) s->taken = s->items.size();
  } else if (const Dict* dict = value.dict()) {
    step(dict->items().size());
    for (const auto& item : dict->items()) items.push_back(item.first);
  } else if (value.text() != nullptr) {
    step(value.text()->characters);
    for (std::string_view rest = value.bytes(); !rest.empty();) {
      const std::size_t size = scan_utf8(rest).length;
      items.emplace_back(rest.substr(0, size));
      rest.remove_prefix(size);
    }
  } else {
    throw Error("'{}' object is not iterable", value.type_name());
  }
  return items;
}

Value Interpreter::call_macro(const MacroDefinition& macro, const std::shared_ptr<Scope>& scope,
                              CallArgs& args) {
  if (++macro_depth_ > options_.max_depth) {
    throw Error("more than {} nested macro calls", options_.max_depth);
  }
  const int line = line_;
  std::string text = capture([&] {
    in_scope(scope, [&] {
      const std::size_t count = macro.parameters.size();
      std::vector<std::optional<Value>> given(count);
      for (std::size_t i = 0; i < std::min(count, args.positional.size()); ++i)
        given[i] = args.positional[i];
      Values extra(args.positional.begin() +
                       static_cast<std::ptrdiff_t>(std::min(count, args.positional.size())),
                   args.positional.end());
      auto keywords = std::make_shared<Dict>();
      for (auto& [name, value] : args.keyword) {
        const auto it =
            std::find_if(macro.parameters.begin(), macro.parameters.end(),
                         [&](const auto& parameter) { return parameter.first == name; });
        if (it != macro.parameters.end()) {
          auto& slot = given[static_cast<std::size_t>(it - macro.parameters.begin())];
          if (slot)
            throw Error("macro '{}' got multiple values for argument '{}'", macro.name, name);
          slot = value;
        } else if (name == "caller" && macro.uses_caller) {
          declare("caller", value);
        } else if (macro.uses_kwargs) {
          keywords->set(Value(name), value);
        } else {
          throw Error("macro '{}' takes no keyword argument '{}'", macro.name, name);
        }
      }
      if (!extra.empty() && !macro.uses_varargs) {
        throw Error("macro '{}' takes not more than {} argument(s)", macro.name, count);
      }
      for (std::size_t i = 0; i < count; ++i) {
        const auto& [name, fallback] = macro.parameters[i];
        if (!given[i]) {
          given[i] = fallback
                         ? fallback->eval(*this)
                         : Value::undefined(fmt::format("parameter '{}' was not provided", name));
        }
        declare(name, *given[i]);
      }
      if (macro.uses_varargs) declare("varargs", Value::tuple(std::move(extra)));
      if (macro.uses_kwargs) declare("kwargs", std::shared_ptr<const Dict>(std::move(keywords)));
      return run(macro.body);
    });
  });
  --macro_depth_;
  line_ = line;
  return Value(std::move(text));
}

Bound::Bound(std::string_view function, CallArgs& args,
             std::initializer_list<std::string_view> names, std::size_t required)
    : function_(function), names_(names), values_(names.size()) {
  if (args.positional.size() > names_.size()) {
    throw Error("{}() takes at most {} argument(s), found {}", function, names_.size(),
                args.positional.size());
  }
  for (std::size_t i = 0; i < args.positional.size(); ++i) values_[i] = args.positional[i];
  for (auto& [name, value] : args.keyword) {
    const auto it = std::find(names_.begin(), names_.end(), name);
    if (it == names_.end()) throw Error("{}() takes no keyword argument '{}'", function, name);
    values_[static_cast<std::size_t>(it - names_.begin())] = value;
  }
  for (std::size_t i = 0; i < required; ++i) {
    if (!values_[i]) throw Error("{}() needs the argument '{}'", function, names_[i]);
  }
}

std::string Bound::text(std::size_t i, std::string_view fallback) const {
  if (!has(i)) return std::string(fallback);
  if (values_[i]->text() == nullptr) {
    throw Error("{}(): argument '{}' must be str, not {}", function_, names_[i],
                values_[i]->type_name());
  }
  spend(copy_steps(values_[i]->bytes().size()));
  return values_[i]->bytes();
}

Int Bound::integer(std::size_t i, Int fallback) const {
  if (!has(i)) return fallback;
  if (!values_[i]->is_int()) {
    throw Error("{}(): argument '{}' must be int, not {}", function_, names_[i],
                values_[i]->type_name());
  }
  return values_[i]->as_int();
}

Value attribute_path(Interpreter& in, const Value& object, const Value& path) {
  if (path.text() == nullptr) return in.get_item(object, path);
  Value current = object;
  std::string_view rest = path.bytes();
  while (true) {
    in.step();
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    const bool number =
        !part.empty() && part.size() < 10 &&
        std::all_of(part.begin(), part.end(), [](char c) { return c >= '0' && c <= '9'; });
    current = in.get_item(current, number ? Value(std::stoi(std::string(part))) : Value(part));
    if (dot == rest.npos) return current;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace quern::jinja
