// See parser.h: the statements.
#include "quern/text/jinja/parser.h"

#include <algorithm>
#include <functional>

#include "quern/base/error.h"
#include "quern/text/jinja/expression_parser.h"

namespace quern::jinja {
namespace {

using Kind = Token::Kind;

class Parser : public ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Tree run() {
    tree_.body = body({});
    return std::move(tree_);
  }

 private:
  // Statements up to a tag named in `ends` (its name is the current token then), or to the end of
  // the template when there are none.
  Body body(std::initializer_list<std::string_view> ends) {
    const Nest nest(*this);
    Body statements;
    while (peek().kind != Kind::kEnd) {
      const Token token = next();
      if (token.kind == Kind::kText) {
        auto node = make<TextStmt>(token.line);
        node->text = token.text;
        statements.push_back(std::move(node));
      } else if (token.kind == Kind::kPrintBegin) {
        auto node = make<PrintStmt>(token.line);
        node->value = tuple();
        expect(Kind::kPrintEnd, "'}}'");
        statements.push_back(std::move(node));
      } else {
        const bool ended =
            std::any_of(ends.begin(), ends.end(), [&](auto name) { return at_name(name); });
        if (ended) return statements;
        statements.push_back(statement());
        expect(Kind::kBlockEnd, "'%}'");
      }
    }
    if (ends.size() != 0) fail_expected(fmt::format("'{}'", *(ends.end() - 1)));
    return statements;
  }

  // The body of a tag whose own end is next, and its closing tag.
  Body closed_body(std::string_view end) {
    expect(Kind::kBlockEnd, "'%}'");
    Body statements = body({end});
    next();
    return statements;
  }

  StmtPtr statement() {
    const Token tag = peek();
    if (tag.kind != Kind::kName) fail_expected("a tag");
    next();
    const std::string& name = tag.text;
    if (name == "if") return if_statement(tag.line);
    if (name == "for") return for_statement(tag.line);
    if (name == "set") return set_statement(tag.line);
    if (name == "macro") return macro_statement(tag.line);
    if (name == "call") return call_block(tag.line);
    if (name == "filter") return filter_block(tag.line);
    if (name == "with") return with_statement(tag.line);
    if (name == "generation") return group(tag.line, "endgeneration");
    if (name == "break" || name == "continue") return jump(tag);
    if (name == "print") return print(tag.line);
    throw Error("line {}: unknown or unsupported tag '{}'", tag.line, name);
  }

  StmtPtr print(int line) {
    auto node = make<PrintStmt>(line);
    node->value = expression();
    return node;
  }

  StmtPtr group(int line, std::string_view end) {
    auto node = make<GroupStmt>(line);
    node->body = closed_body(end);
    return node;
  }

  StmtPtr jump(const Token& tag) {
    if (loops_ == 0) throw Error("line {}: '{}' outside of a loop", tag.line, tag.text);
    auto node = make<JumpStmt>(tag.line);
    node->flow = tag.text == "break" ? Flow::kBreak : Flow::kContinue;
    return node;
  }

  StmtPtr if_statement(int line) {
    auto node = make<IfStmt>(line);
    while (true) {
      ExprPtr test = tuple(false);
      expect(Kind::kBlockEnd, "'%}'");
      Body then = body({"elif", "else", "endif"});
      node->branches.emplace_back(std::move(test), std::move(then));
      const bool more = at_name("elif");
      const bool otherwise = at_name("else");
      next();
      if (otherwise) node->otherwise = closed_body("endif");
      if (!more) return node;
    }
  }

  StmtPtr for_statement(int line) {
    auto node = make<ForStmt>(line);
    node->target = target(false);
    if (!take_name("in")) fail_expected("'in'");
    node->iterable = tuple(false, false, "recursive");
    if (take_name("if")) node->filter = expression();
    node->recursive = take_name("recursive");
    expect(Kind::kBlockEnd, "'%}'");
    ++loops_;
    node->body = body({"else", "endfor"});
    --loops_;
    const bool otherwise = at_name("else");
    next();
    if (otherwise) node->otherwise = closed_body("endfor");
    tree_.loops.push_back(node.get());
    return node;
  }

  Target single_target(bool with_namespace) {
    if (take_operator("(")) {
      Target inner = target(with_namespace);
      expect_operator(")");
      return inner;
    }
    Target result;
    const int line = peek().line;
    result.name = expect_name();
    for (const char* constant : {"true", "false", "none", "True", "False", "None"}) {
      if (result.name == constant) throw Error("line {}: cannot assign to '{}'", line, constant);
    }
    if (with_namespace && take_operator(".")) result.attribute = expect_name();
    return result;
  }

  Target target(bool with_namespace) {
    const Nest nest(*this);
    Target first = single_target(with_namespace);
    if (!at_operator(",")) return first;
    Target all;
    all.is_tuple = true;
    all.items.push_back(std::move(first));
    while (take_operator(",")) {
      if (peek().kind != Kind::kName && !at_operator("(")) break;
      if (at_name("in")) break;
      all.items.push_back(single_target(with_namespace));
    }
    return all;
  }

  StmtPtr set_statement(int line) {
    Target to = target(true);
    if (take_operator("=")) {
      auto node = make<SetStmt>(line);
      node->target = std::move(to);
      node->value = tuple();
      tree_.assignments.push_back(node.get());
      return node;
    }
    auto node = make<SetBlockStmt>(line);
    node->target = std::move(to);
    node->filter = filters(nullptr, false);
    node->body = closed_body("endset");
    return node;
  }

  StmtPtr filter_block(int line) {
    auto node = make<FilterBlockStmt>(line);
    node->filter = filters(nullptr, true);
    node->body = closed_body("endfilter");
    return node;
  }

  StmtPtr with_statement(int line) {
    auto node = make<WithStmt>(line);
    while (peek().kind != Kind::kBlockEnd) {
      if (!node->values.empty()) expect_operator(",");
      Target to = single_target(false);
      expect_operator("=");
      node->values.emplace_back(std::move(to), expression());
    }
    node->body = closed_body("endwith");
    return node;
  }

  void parameters(MacroDefinition& macro) {
    expect_operator("(");
    while (!at_operator(")")) {
      std::string name = expect_name();
      ExprPtr fallback = take_operator("=") ? expression() : nullptr;
      if (!fallback && !macro.parameters.empty() && macro.parameters.back().second) {
        fail_expected("a default for each parameter behind one that has it");
      }
      macro.parameters.emplace_back(std::move(name), std::move(fallback));
      if (!take_operator(",")) break;
    }
    expect_operator(")");
  }

  // The body of a macro or call block; a jump does not leave it.
  void macro_body(MacroDefinition& macro, std::string_view end) {
    const int loops = std::exchange(loops_, 0);
    macro_names_.emplace_back();
    macro.body = closed_body(end);
    const std::vector<std::string> names = std::move(macro_names_.back());
    macro_names_.pop_back();
    const auto uses = [&](const char* name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    macro.uses_varargs = uses("varargs");
    macro.uses_kwargs = uses("kwargs");
    macro.uses_caller = uses("caller");
    loops_ = loops;
    if (!macro_names_.empty())
      macro_names_.back().insert(macro_names_.back().end(), names.begin(), names.end());
  }

  StmtPtr macro_statement(int line) {
    auto node = make<MacroStmt>(line);
    node->definition.name = expect_name();
    parameters(node->definition);
    macro_body(node->definition, "endmacro");
    return node;
  }

  StmtPtr call_block(int line) {
    auto node = make<CallBlockStmt>(line);
    node->caller.name = "caller";
    if (at_operator("(")) parameters(node->caller);
    ExprPtr call = expression();
    if (dynamic_cast<CallExpr*>(call.get()) == nullptr)
      throw Error("line {}: expected a call", line);
    node->call.reset(static_cast<CallExpr*>(call.release()));
    macro_body(node->caller, "endcall");
    return node;
  }

  Tree tree_;
  int loops_ = 0;  // around the current place, inside of the current macro
};

}  // namespace

Tree parse_template(std::string_view source, const TemplateSyntax& syntax) {
  return Parser(tokenize(source, syntax)).run();
}

}  // namespace quern::jinja
