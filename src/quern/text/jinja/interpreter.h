// One rendering of a template: variables, output, limits, and the operations that nodes, filters,
// tests and methods share. Must never let a template use unbounded time, memory or stack. Proved by
// tests/text/jinja_golden_test.cc and jinja_limits_test.cc.
#pragma once

#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "quern/text/jinja.h"
#include "quern/text/jinja/ast.h"
#include "quern/text/jinja/budget.h"
#include "quern/text/jinja/value.h"

namespace quern::jinja {

struct Scope {
  explicit Scope(std::shared_ptr<Scope> above) : parent(std::move(above)) {}
  std::vector<std::pair<std::string, Value>> variables;
  std::shared_ptr<Scope> parent;
  Held held{128};
};

// Text that statements write to.
struct Output {
  std::string text;
  Held held{0};
};

class Interpreter {
 public:
  Interpreter(const RenderOptions& options, const Json& context);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string render(const Tree& tree);
  int line() const { return line_; }

  // Limits. step() is called for every node; `count` for work proportional to something.
  void step(std::size_t count = 1) { budget_.step(count); }
  void at_line(int line) { line_ = line; }
  // Refuses a string that would become too large.
  void check_size(std::size_t bytes) const { budget_.check_size(bytes); }

  // Output.
  void write(std::string_view text);
  template <typename Fn>
  std::string capture(Fn&& fn) {
    Output inner;
    Output* outer = std::exchange(out_, &inner);
    try {
      fn();
    } catch (...) {
      out_ = outer;
      throw;
    }
    out_ = outer;
    return std::move(inner.text);
  }
  Flow run(const Body& body);
  // What a filter without input works on: the text of its filter block or block set.
  const Value& block_text() const { return block_text_; }
  Value filter_block(const Expr& filter, std::string text) {
    block_text_ = Value(std::move(text));
    return filter.eval(*this);
  }

  // Variables.
  Value lookup(const std::string& name) const;
  void declare(std::string_view name, Value value);
  void assign(const Target& target, const Value& value);
  const std::shared_ptr<Scope>& scope() const { return scope_; }
  // Runs `fn` in a new scope below `parent`.
  template <typename Fn>
  auto in_scope(std::shared_ptr<Scope> parent, Fn&& fn) {
    const ScopeGuard guard(*this, std::move(parent));
    return fn();
  }
  std::shared_ptr<Namespace> new_namespace();
  // The scope lives as long as a macro defined in it may be called: until the end of the rendering.
  void keep_scope() { kept_scopes_.push_back(scope_); }

  // Operations with Python's (jinja2's) meaning.
  Value get_attribute(const Value& object, std::string_view name);
  Value get_item(const Value& object, const Value& key);
  Value call(const Value& callee, CallArgs& args);
  Value call_macro(const MacroDefinition& macro, const std::shared_ptr<Scope>& scope,
                   CallArgs& args);
  Value filter(const std::string& name, const Value& input, CallArgs& args);
  bool test(const std::string& name, const Value& input, CallArgs& args);
  Values iterate(const Value& value);
  Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);
  Value arithmetic(std::string_view op, const Value& left, const Value& right);
  bool contains(const Value& container, const Value& item);
  std::string text_of(const Value& value);  // str(), an error for undefined values in strict mode
  bool truth(const Value& value) const;     // the same for bool()
  const Value& defined(const Value& value) const;  // throws for an undefined value
  std::optional<Int> length(const Value& value) const;
  bool strict() const { return options_.strict_undefined; }

 private:
  class ScopeGuard {
   public:
    ScopeGuard(Interpreter& in, std::shared_ptr<Scope> parent) : in_(in), outer_(in.scope_) {
      in.scope_ = std::make_shared<Scope>(std::move(parent));
    }
    ScopeGuard(const ScopeGuard&) = delete;
    ScopeGuard& operator=(const ScopeGuard&) = delete;
    ~ScopeGuard() { in_.scope_ = std::move(outer_); }

   private:
    Interpreter& in_;
    std::shared_ptr<Scope> outer_;
  };

  RenderOptions options_;
  Budget budget_;  // of all values below: outlives them
  std::shared_ptr<Scope> scope_;
  Output* out_ = nullptr;
  Value block_text_;
  int line_ = 1;
  int macro_depth_ = 0;
  // Scopes and namespaces can refer to themselves through macros: emptied at the end.
  std::vector<std::shared_ptr<Scope>> kept_scopes_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
};

// Arguments of a filter, test, method or function by position or name.
class Bound {
 public:
  Bound(std::string_view function, CallArgs& args, std::initializer_list<std::string_view> names,
        std::size_t required = 0);
  bool has(std::size_t i) const { return values_[i].has_value(); }
  Value get(std::size_t i, Value fallback = {}) const {
    return values_[i] ? *values_[i] : fallback;
  }
  // Throw Error with the argument's name when the type is another.
  std::string text(std::size_t i, std::string_view fallback = {}) const;
  Int integer(std::size_t i, Int fallback = 0) const;
  bool flag(std::size_t i, bool fallback = false) const {
    return has(i) ? get(i).truthy() : fallback;
  }

 private:
  std::string_view function_;
  std::vector<std::string_view> names_;
  std::vector<std::optional<Value>> values_;
};

using Filter = Value (*)(Interpreter&, const Value& input, CallArgs&);
using Test = bool (*)(Interpreter&, const Value& input, CallArgs&);
using Method = Value (*)(Interpreter&, const Value& self, CallArgs&);
using Function = Value (*)(Interpreter&, CallArgs&);

// Tables; null when there is none of that name.
Filter find_text_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);
Test find_test(std::string_view name);
Method find_text_method(std::string_view name);
Method find_collection_method(const Value& self, std::string_view name);
Function find_global(std::string_view name);

// "a.b.0" of each item, for the attribute arguments of filters.
Value attribute_path(Interpreter& in, const Value& object, const Value& path);

}  // namespace quern::jinja
