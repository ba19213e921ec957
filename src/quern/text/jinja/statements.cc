// Execution of statements (see ast.h).
#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"

namespace quern::jinja {
namespace {

// A macro or the body of a call block, bound to the scope it was defined in.
struct Macro : Callable {
  const MacroDefinition& definition;
  std::weak_ptr<Scope> scope;  // kept alive by the interpreter
  Macro(const MacroDefinition& macro, const std::shared_ptr<Scope>& defined_in)
      : definition(macro), scope(defined_in) {}

  Value call(Interpreter& in, CallArgs& args) override {
    return in.call_macro(definition, scope.lock(), args);
  }
  Value attribute(std::string_view name) override {
    if (name == "name") return Value(definition.name);
    if (name == "arguments") {
      Values names;
      for (const auto& parameter : definition.parameters) names.emplace_back(parameter.first);
      return Value::tuple(std::move(names));
    }
    if (name == "catch_kwargs") return definition.uses_kwargs;
    if (name == "catch_varargs") return definition.uses_varargs;
    if (name == "caller") return definition.uses_caller;
    return Callable::attribute(name);
  }
  std::string repr() const override { return fmt::format("<Macro '{}'>", definition.name); }
};

Value make_macro(Interpreter& in, const MacroDefinition& definition) {
  in.keep_scope();
  return std::shared_ptr<Callable>(std::make_shared<Macro>(definition, in.scope()));
}

// The variable `loop`; its methods are callables of their own.
struct LoopState : Callable, std::enable_shared_from_this<LoopState> {
  Values items;
  std::size_t index = 0;
  int level = 1;                       // of a recursive loop
  const ForStmt* statement = nullptr;  // of a recursive loop
  std::optional<Values> last_changed;
  bool running = true;

  struct Part : Callable {
    std::weak_ptr<LoopState> loop;
    bool is_cycle;
    Part(const std::shared_ptr<LoopState>& state, bool cycle) : loop(state), is_cycle(cycle) {}
    Value call(Interpreter&, CallArgs& args) override {
      const auto state = loop.lock();
      if (!state) throw Error("a loop's method was called behind the loop");
      if (is_cycle) {
        if (args.positional.empty()) throw Error("no items for cycling given");
        return args.positional[state->index % args.positional.size()];
      }
      if (!state->running) throw Error("loop.changed() was called behind the loop");
      if (state->last_changed == args.positional) return false;
      state->last_changed = args.positional;
      return true;
    }
    std::string repr() const override { return is_cycle ? "<loop.cycle>" : "<loop.changed>"; }
  };

  Value call(Interpreter& in, CallArgs& args) override {
    if (statement == nullptr) throw Error("the loop is not recursive");
    Bound bound("loop", args, {"iterable"}, 1);
    return Value(in.capture([&] { statement->loop(in, bound.get(0), level + 1); }));
  }
  Value attribute(std::string_view name) override {
    const std::size_t size = items.size();
    if (name == "index") return index + 1;
    if (name == "index0") return index;
    if (name == "revindex") return size - index;
    if (name == "revindex0") return size - index - 1;
    if (name == "first") return index == 0;
    if (name == "last") return index + 1 == size;
    if (name == "length") return size;
    if (name == "depth") return level;
    if (name == "depth0") return level - 1;
    if (name == "previtem")
      return index > 0 ? items[index - 1] : Value::undefined("there is no previous item");
    if (name == "nextitem")
      return index + 1 < size ? items[index + 1] : Value::undefined("there is no next item");
    if (name == "cycle" || name == "changed") {
      return std::shared_ptr<Callable>(std::make_shared<Part>(shared_from_this(), name == "cycle"));
    }
    return Callable::attribute(name);
  }
  std::string repr() const override {
    return fmt::format("<LoopContext {}/{}>", index + 1, items.size());
  }
};

// What loop.changed() remembers may hold the loop itself: it ends with the loop.
struct RunningLoop {
  LoopState& state;
  ~RunningLoop() {
    state.running = false;
    state.last_changed.reset();
  }
};

}  // namespace

Flow TextStmt::run(Interpreter& in) const {
  in.write(text);
  return Flow::kNext;
}

Flow PrintStmt::run(Interpreter& in) const {
  const Value printed = value->eval(in);
  in.at_line(line);
  in.write(in.text_of(printed));
  return Flow::kNext;
}

Flow IfStmt::run(Interpreter& in) const {
  for (const auto& [test, body] : branches) {
    if (in.truth(test->eval(in))) return in.run(body);
  }
  return in.run(otherwise);
}

Flow ForStmt::run(Interpreter& in) const {
  loop(in, iterable->eval(in), 1);
  return Flow::kNext;
}

void ForStmt::loop(Interpreter& in, const Value& over, int level) const {
  in.at_line(line);
  auto state = std::make_shared<LoopState>();
  state->level = level;
  if (recursive) state->statement = this;
  for (Value& item : in.iterate(over)) {
    const bool kept = !filter || in.in_scope(in.scope(), [&] {
      in.assign(target, item);
      return in.truth(filter->eval(in));
    });
    if (kept) state->items.push_back(std::move(item));
  }
  state->depth = depth_above(state->items);
  state->held.grow(state->items.size() * sizeof(Value));
  const RunningLoop guard{*state};
  for (; state->index < state->items.size(); ++state->index) {
    in.step();
    const Flow flow = in.in_scope(in.scope(), [&] {
      in.assign(target, state->items[state->index]);
      in.declare("loop", std::shared_ptr<Callable>(state));
      return in.run(body);
    });
    if (flow == Flow::kBreak) break;
  }
  // As in Python's translation, `else` runs when there was no item at all.
  if (state->items.empty()) in.in_scope(in.scope(), [&] { return in.run(otherwise); });
}

Flow SetStmt::run(Interpreter& in) const {
  const Value assigned = value->eval(in);
  in.at_line(line);
  in.assign(target, assigned);
  return Flow::kNext;
}

Flow SetBlockStmt::run(Interpreter& in) const {
  std::string text = in.capture([&] { in.in_scope(in.scope(), [&] { return in.run(body); }); });
  in.assign(target, filter ? in.filter_block(*filter, std::move(text)) : Value(std::move(text)));
  return Flow::kNext;
}

Flow FilterBlockStmt::run(Interpreter& in) const {
  std::string text = in.capture([&] { in.in_scope(in.scope(), [&] { return in.run(body); }); });
  in.write(in.text_of(in.filter_block(*filter, std::move(text))));
  return Flow::kNext;
}

Flow WithStmt::run(Interpreter& in) const {
  Values evaluated;  // in the outer scope, all before the first is assigned
  for (const auto& item : values) evaluated.push_back(item.second->eval(in));
  return in.in_scope(in.scope(), [&] {
    for (std::size_t i = 0; i < values.size(); ++i) in.assign(values[i].first, evaluated[i]);
    return in.run(body);
  });
}

Flow GroupStmt::run(Interpreter& in) const {
  return in.in_scope(in.scope(), [&] { return in.run(body); });
}

Flow MacroStmt::run(Interpreter& in) const {
  in.declare(definition.name, make_macro(in, definition));
  return Flow::kNext;
}

Flow CallBlockStmt::run(Interpreter& in) const {
  const Value function = call->callee->eval(in);
  CallArgs args = call->arguments.eval(in);
  args.keyword.emplace_back("caller", make_macro(in, caller));
  in.at_line(line);
  in.write(in.text_of(in.call(function, args)));
  return Flow::kNext;
}

}  // namespace quern::jinja
