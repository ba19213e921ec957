// The expression half of the parser; the statement half derives from it.
// Must never consume tokens behind the expression.
// Proved by tests/text/jinja_golden_test.cc.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "quern/text/jinja/ast.h"
#include "quern/text/jinja/lexer.h"

namespace quern::jinja {

class ExpressionParser {
 public:
  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

 protected:
  ExprPtr expression(bool with_condition = true);
  // One expression, or several with commas: a tuple. `stop` is a name that may follow a bogus
  // comma.
  ExprPtr tuple(bool with_condition = true, bool parenthesized = false, std::string_view stop = {});
  // A chain of filters behind '|' (or, inline, without the first '|') on `input`.
  ExprPtr filters(ExprPtr input, bool first_inline);

  const Token& peek(std::size_t ahead = 0) const;
  Token next();
  bool at_operator(std::string_view op, std::size_t ahead = 0) const;
  bool at_name(std::string_view name, std::size_t ahead = 0) const;
  bool take_operator(std::string_view op);
  bool take_name(std::string_view name);
  void expect_operator(std::string_view op);
  std::string expect_name();
  void expect(Token::Kind kind, std::string_view what);
  [[noreturn]] void fail_expected(std::string_view what) const;

  template <typename T>
  std::unique_ptr<T> make(int line) const {
    auto node = std::make_unique<T>();
    node->line = line;
    return node;
  }

  // Guards against stack overflow by nesting.
  class Nest {
   public:
    explicit Nest(ExpressionParser& parser);
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;
    ~Nest() { --parser_.depth_; }

   private:
    ExpressionParser& parser_;
  };

  // Names read since the innermost macro began.
  std::vector<std::vector<std::string>> macro_names_;

 private:
  void add_link();
  ExprPtr or_expression();
  ExprPtr and_expression();
  ExprPtr not_expression();
  ExprPtr comparison();
  ExprPtr sum();
  ExprPtr concatenation();
  ExprPtr product();
  ExprPtr power();
  ExprPtr arithmetic(ExprPtr (ExpressionParser::*operand)(),
                     std::initializer_list<std::string_view> operators);
  ExprPtr unary(bool with_filter = true);
  ExprPtr primary();
  ExprPtr number();
  ExprPtr list();
  ExprPtr dict();
  ExprPtr postfix(ExprPtr node);
  ExprPtr subscript(ExprPtr object);
  ExprPtr filter_or_test(ExprPtr node);
  ExprPtr test(ExprPtr input);
  ExprPtr call(ExprPtr callee);
  Arguments arguments();
  bool ends_tuple(std::string_view stop) const;

  std::vector<Token> tokens_;
  std::size_t at_ = 0;
  int depth_ = 0;
  int open_expressions_ = 0;
  int links_ = 0;  // operators since the outermost expression began
};

}  // namespace quern::jinja
