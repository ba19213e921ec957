// The tree of a template: expressions that evaluate themselves and statements that run themselves.
// Must never hold state of a rendering: that is the Interpreter's.
// Proved by tests/text/jinja_golden_test.cc.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "quern/text/jinja/value.h"

namespace quern::jinja {

class Interpreter;

struct Expr {
  int line = 0;
  virtual ~Expr() = default;
  virtual Value eval(Interpreter& in) const = 0;
};
using ExprPtr = std::unique_ptr<Expr>;

struct Arguments {
  std::vector<ExprPtr> positional;
  std::vector<std::pair<std::string, ExprPtr>> keyword;
  ExprPtr star;         // *args
  ExprPtr double_star;  // **kwargs
  CallArgs eval(Interpreter& in) const;
};

struct Literal : Expr {
  Value value;
  Value eval(Interpreter&) const override { return value; }
};
struct Name : Expr {
  std::string name;
  Value eval(Interpreter& in) const override;
};
struct ListExpr : Expr {
  bool is_tuple = false;
  std::vector<ExprPtr> items;
  Value eval(Interpreter& in) const override;
};
struct DictExpr : Expr {
  std::vector<std::pair<ExprPtr, ExprPtr>> items;
  Value eval(Interpreter& in) const override;
};
struct UnaryExpr : Expr {
  enum class Op { kNot, kNegate, kPlus };
  Op op;
  ExprPtr operand;
  Value eval(Interpreter& in) const override;
};
struct LogicExpr : Expr {
  bool is_and = false;
  ExprPtr left;
  ExprPtr right;
  Value eval(Interpreter& in) const override;
};
struct ArithmeticExpr : Expr {
  std::string op;
  ExprPtr left;
  ExprPtr right;
  Value eval(Interpreter& in) const override;
};
struct CompareExpr : Expr {
  ExprPtr first;
  std::vector<std::pair<std::string, ExprPtr>> rest;  // operator, operand
  Value eval(Interpreter& in) const override;
};
struct ConcatExpr : Expr {
  std::vector<ExprPtr> parts;
  Value eval(Interpreter& in) const override;
};
struct ConditionExpr : Expr {
  ExprPtr test;
  ExprPtr then;
  ExprPtr otherwise;  // may be null
  Value eval(Interpreter& in) const override;
};
struct GetAttr : Expr {
  ExprPtr object;
  std::string name;
  Value eval(Interpreter& in) const override;
};
struct GetItem : Expr {
  ExprPtr object;
  ExprPtr key;
  Value eval(Interpreter& in) const override;
};
struct SliceExpr : Expr {
  ExprPtr object;
  ExprPtr start, stop, step;  // may be null
  Value eval(Interpreter& in) const override;
};
struct CallExpr : Expr {
  ExprPtr callee;
  Arguments arguments;
  Value eval(Interpreter& in) const override;
};
struct FilterExpr : Expr {
  ExprPtr input;  // null: the text of a filter block or block set
  std::string name;
  Arguments arguments;
  Value eval(Interpreter& in) const override;
};
struct TestExpr : Expr {
  ExprPtr input;
  std::string name;
  Arguments arguments;
  Value eval(Interpreter& in) const override;
};

// How the statement ended.
enum class Flow { kNext, kBreak, kContinue };

struct Stmt {
  int line = 0;
  virtual ~Stmt() = default;
  virtual Flow run(Interpreter& in) const = 0;
};
using StmtPtr = std::unique_ptr<Stmt>;
using Body = std::vector<StmtPtr>;

// What `set` and `for` assign to: a name, a namespace's attribute, or several of them.
struct Target {
  std::string name;
  std::string attribute;  // of the namespace `name`; empty for a plain name
  std::vector<Target> items;
  bool is_tuple = false;
};

struct TextStmt : Stmt {
  std::string text;
  Flow run(Interpreter& in) const override;
};
struct PrintStmt : Stmt {
  ExprPtr value;
  Flow run(Interpreter& in) const override;
};
struct IfStmt : Stmt {
  std::vector<std::pair<ExprPtr, Body>> branches;
  Body otherwise;
  Flow run(Interpreter& in) const override;
};
struct ForStmt : Stmt {
  Target target;
  ExprPtr iterable;
  ExprPtr filter;  // may be null
  bool recursive = false;
  Body body;
  Body otherwise;
  Flow run(Interpreter& in) const override;
  void loop(Interpreter& in, const Value& iterable, int level) const;
};
struct SetStmt : Stmt {
  Target target;
  ExprPtr value;
  Flow run(Interpreter& in) const override;
};
struct SetBlockStmt : Stmt {
  Target target;
  ExprPtr filter;  // may be null
  Body body;
  Flow run(Interpreter& in) const override;
};
struct FilterBlockStmt : Stmt {
  ExprPtr filter;
  Body body;
  Flow run(Interpreter& in) const override;
};
struct WithStmt : Stmt {
  std::vector<std::pair<Target, ExprPtr>> values;
  Body body;
  Flow run(Interpreter& in) const override;
};
// A body with nothing around it (`generation`).
struct GroupStmt : Stmt {
  Body body;
  Flow run(Interpreter& in) const override;
};
struct JumpStmt : Stmt {
  Flow flow = Flow::kBreak;
  Flow run(Interpreter&) const override { return flow; }
};

struct MacroDefinition {
  std::string name;
  std::vector<std::pair<std::string, ExprPtr>> parameters;  // default may be null
  Body body;
  // The body mentions these names: only then are such arguments accepted.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};
struct MacroStmt : Stmt {
  MacroDefinition definition;
  Flow run(Interpreter& in) const override;
};
struct CallBlockStmt : Stmt {
  MacroDefinition caller;
  std::unique_ptr<CallExpr> call;
  Flow run(Interpreter& in) const override;
};

struct Tree {
  Body body;
  // Every `for` and `set` of the template, for the detection of the content format.
  std::vector<const ForStmt*> loops;
  std::vector<const SetStmt*> assignments;
};

}  // namespace quern::jinja
