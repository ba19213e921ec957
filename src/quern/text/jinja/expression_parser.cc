// See expression_parser.h. Grammar, loosest first: a if b else c, or, and, not, comparison, + -, ~,
// * / // %, **, unary, postfix and filters (jinja2/parser.py).
#include "quern/text/jinja/expression_parser.h"

#include <charconv>
#include <cstdlib>

#include "quern/base/error.h"

namespace quern::jinja {

using Kind = Token::Kind;

namespace {
constexpr int kMaxLinks = 2000;   // operators of an expression; each may take a frame
constexpr int kMaxNesting = 150;  // of the template's text; each level takes about ten stack frames
}  // namespace

ExpressionParser::Nest::Nest(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.depth_ > kMaxNesting) {
    throw Error("line {}: nested deeper than {} levels", parser_.peek().line, kMaxNesting);
  }
}

const Token& ExpressionParser::peek(std::size_t ahead) const {
  return tokens_[std::min(at_ + ahead, tokens_.size() - 1)];
}

Token ExpressionParser::next() {
  const Token token = peek();
  if (token.kind != Kind::kEnd) ++at_;
  return token;
}

bool ExpressionParser::at_operator(std::string_view op, std::size_t ahead) const {
  return peek(ahead).kind == Kind::kOperator && peek(ahead).text == op;
}
bool ExpressionParser::at_name(std::string_view name, std::size_t ahead) const {
  return peek(ahead).kind == Kind::kName && peek(ahead).text == name;
}
bool ExpressionParser::take_operator(std::string_view op) {
  return at_operator(op) && (++at_, true);
}
bool ExpressionParser::take_name(std::string_view name) { return at_name(name) && (++at_, true); }

void ExpressionParser::fail_expected(std::string_view what) const {
  const Token& token = peek();
  static constexpr std::string_view kNames[] = {"text",
                                                "'{{'",
                                                "'}}'",
                                                "'{%'",
                                                "'%}'",
                                                "",
                                                "a string",
                                                "",
                                                "",
                                                "",
                                                "the end of the template"};
  std::string found(kNames[static_cast<std::size_t>(token.kind)]);
  if (found.empty()) found = fmt::format("'{}'", token.text);
  throw Error("line {}: expected {}, found {}", token.line, what, found);
}

void ExpressionParser::expect_operator(std::string_view op) {
  if (!take_operator(op)) fail_expected(fmt::format("'{}'", op));
}
std::string ExpressionParser::expect_name() {
  if (peek().kind != Kind::kName) fail_expected("a name");
  return next().text;
}
void ExpressionParser::expect(Kind kind, std::string_view what) {
  if (peek().kind != kind) fail_expected(what);
  next();
}

// A chain of operators becomes a tree as deep as the chain is long, and chains stand in chains: all
// of an outermost expression are counted together.
void ExpressionParser::add_link() {
  if (++links_ > kMaxLinks) {
    throw Error("line {}: more than {} operators in an expression", peek().line, kMaxLinks);
  }
}

ExprPtr ExpressionParser::expression(bool with_condition) {
  const Nest nest(*this);
  if (open_expressions_++ == 0) links_ = 0;
  ExprPtr node = or_expression();
  while (with_condition && at_name("if")) {
    add_link();
    auto condition = make<ConditionExpr>(next().line);
    condition->then = std::move(node);
    condition->test = or_expression();
    if (take_name("else")) condition->otherwise = expression();
    node = std::move(condition);
  }
  --open_expressions_;
  return node;
}

ExprPtr ExpressionParser::or_expression() {
  ExprPtr left = and_expression();
  while (at_name("or")) {
    add_link();
    auto node = make<LogicExpr>(next().line);
    node->left = std::move(left);
    node->right = and_expression();
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::and_expression() {
  ExprPtr left = not_expression();
  while (at_name("and")) {
    add_link();
    auto node = make<LogicExpr>(next().line);
    node->is_and = true;
    node->left = std::move(left);
    node->right = not_expression();
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::not_expression() {
  if (!at_name("not")) return comparison();
  const Nest nest(*this);
  auto node = make<UnaryExpr>(next().line);
  node->op = UnaryExpr::Op::kNot;
  node->operand = not_expression();
  return node;
}

ExprPtr ExpressionParser::comparison() {
  auto node = make<CompareExpr>(peek().line);
  node->first = sum();
  while (true) {
    std::string op;
    for (const char* symbol : {"==", "!=", ">=", "<=", ">", "<"}) {
      if (at_operator(symbol)) op = symbol;
    }
    if (!op.empty()) {
      next();
    } else if (take_name("in")) {
      op = "in";
    } else if (at_name("not") && at_name("in", 1)) {
      next();
      next();
      op = "not in";
    } else {
      break;
    }
    node->rest.emplace_back(op, sum());
  }
  if (node->rest.empty()) return std::move(node->first);
  return node;
}

ExprPtr ExpressionParser::arithmetic(ExprPtr (ExpressionParser::*operand)(),
                                     std::initializer_list<std::string_view> operators) {
  ExprPtr left = (this->*operand)();
  while (true) {
    std::string_view found;
    for (const std::string_view op : operators) {
      if (at_operator(op)) found = op;
    }
    if (found.empty()) return left;
    add_link();
    auto node = make<ArithmeticExpr>(next().line);
    node->op = found;
    node->left = std::move(left);
    node->right = (this->*operand)();
    left = std::move(node);
  }
}

ExprPtr ExpressionParser::sum() { return arithmetic(&ExpressionParser::concatenation, {"+", "-"}); }
ExprPtr ExpressionParser::product() {
  return arithmetic(&ExpressionParser::power, {"*", "/", "//", "%"});
}

ExprPtr ExpressionParser::power() {
  ExprPtr left = unary();
  while (at_operator("**")) {
    add_link();
    auto node = make<ArithmeticExpr>(next().line);
    node->op = "**";
    node->left = std::move(left);
    node->right = unary();
    left = std::move(node);
  }
  return left;
}

ExprPtr ExpressionParser::concatenation() {
  ExprPtr first = product();
  if (!at_operator("~")) return first;
  auto node = make<ConcatExpr>(peek().line);
  node->parts.push_back(std::move(first));
  while (take_operator("~")) node->parts.push_back(product());
  return node;
}

ExprPtr ExpressionParser::unary(bool with_filter) {
  const Nest nest(*this);
  ExprPtr node;
  if (at_operator("-") || at_operator("+")) {
    const Token sign = next();
    auto negated = make<UnaryExpr>(sign.line);
    negated->op = sign.text == "-" ? UnaryExpr::Op::kNegate : UnaryExpr::Op::kPlus;
    negated->operand = unary(false);
    node = std::move(negated);
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filter ? filter_or_test(std::move(node)) : std::move(node);
}

ExprPtr ExpressionParser::primary() {
  const Token& token = peek();
  switch (token.kind) {
    case Kind::kName: {
      const std::string name = token.text;
      auto literal = make<Literal>(token.line);
      if (name == "true" || name == "True")
        literal->value = true;
      else if (name == "false" || name == "False")
        literal->value = false;
      else if (name != "none" && name != "None")
        literal.reset();
      const int line = next().line;
      if (literal) return literal;
      if (!macro_names_.empty()) macro_names_.back().push_back(name);
      auto node = make<Name>(line);
      node->name = name;
      return node;
    }
    case Kind::kString: {
      auto node = make<Literal>(token.line);
      std::string text;
      while (peek().kind == Kind::kString) text += next().text;
      node->value = Value(std::move(text));
      return node;
    }
    case Kind::kInteger:
    case Kind::kFloat:
      return number();
    default:
      break;
  }
  if (take_operator("(")) {
    ExprPtr node = tuple(true, true);
    expect_operator(")");
    return node;
  }
  if (at_operator("[")) return list();
  if (at_operator("{")) return dict();
  fail_expected("an expression");
}

ExprPtr ExpressionParser::number() {
  const Token token = next();
  auto node = make<Literal>(token.line);
  if (token.kind == Kind::kFloat) {
    node->value = std::strtod(token.text.c_str(), nullptr);
    return node;
  }
  int base = 10;
  std::string_view digits = token.text;
  if (digits.size() > 2 && digits[0] == '0') {
    const char letter = digits[1];
    if (letter == 'x' || letter == 'X')
      base = 16;
    else if (letter == 'o' || letter == 'O')
      base = 8;
    else if (letter == 'b' || letter == 'B')
      base = 2;
    if (base != 10) digits.remove_prefix(2);
  }
  std::uint64_t value = 0;
  const auto [end, error] =
      std::from_chars(digits.data(), digits.data() + digits.size(), value, base);
  if (error != std::errc() || end != digits.data() + digits.size()) {
    throw Error("line {}: '{}' is not an integer of 64 bits", token.line, token.text);
  }
  node->value = static_cast<Int>(value);
  return node;
}

bool ExpressionParser::ends_tuple(std::string_view stop) const {
  const Kind kind = peek().kind;
  return kind == Kind::kPrintEnd || kind == Kind::kBlockEnd || at_operator(")") ||
         (!stop.empty() && at_name(stop));
}

ExprPtr ExpressionParser::tuple(bool with_condition, bool parenthesized, std::string_view stop) {
  auto node = make<ListExpr>(peek().line);
  node->is_tuple = true;
  bool comma = false;
  while (!ends_tuple(stop)) {
    node->items.push_back(expression(with_condition));
    if (!take_operator(",")) break;
    comma = true;
  }
  if (!comma) {
    if (node->items.size() == 1) return std::move(node->items.front());
    if (!parenthesized) fail_expected("an expression");
  }
  return node;
}

ExprPtr ExpressionParser::list() {
  auto node = make<ListExpr>(next().line);
  while (!at_operator("]")) {
    node->items.push_back(expression());
    if (!take_operator(",")) break;
  }
  expect_operator("]");
  return node;
}

ExprPtr ExpressionParser::dict() {
  auto node = make<DictExpr>(next().line);
  while (!at_operator("}")) {
    ExprPtr key = expression();
    expect_operator(":");
    node->items.emplace_back(std::move(key), expression());
    if (!take_operator(",")) break;
  }
  expect_operator("}");
  return node;
}

// A chain of postfixes or filters becomes a tree as deep as the chain is long: counted as nesting.
ExprPtr ExpressionParser::postfix(ExprPtr node) {
  for (int links = 0;; ++links) {
    if (links > kMaxNesting) fail_expected("a shorter chain");
    if (at_operator(".") || at_operator("["))
      node = subscript(std::move(node));
    else if (at_operator("("))
      node = call(std::move(node));
    else
      return node;
  }
}

ExprPtr ExpressionParser::filter_or_test(ExprPtr node) {
  for (int links = 0;; ++links) {
    if (links > kMaxNesting) fail_expected("a shorter chain");
    if (at_operator("|"))
      node = filters(std::move(node), false);
    else if (at_name("is"))
      node = test(std::move(node));
    else if (at_operator("("))
      node = call(std::move(node));
    else
      return node;
  }
}

ExprPtr ExpressionParser::subscript(ExprPtr object) {
  const Token token = next();
  if (token.text == ".") {
    if (peek().kind == Kind::kInteger) {
      auto node = make<GetItem>(token.line);
      node->object = std::move(object);
      node->key = number();
      return node;
    }
    auto node = make<GetAttr>(token.line);
    node->object = std::move(object);
    node->name = expect_name();
    return node;
  }
  ExprPtr start = at_operator(":") ? nullptr : expression();
  if (!at_operator(":")) {
    auto node = make<GetItem>(token.line);
    node->object = std::move(object);
    node->key = std::move(start);
    expect_operator("]");
    return node;
  }
  next();
  auto node = make<SliceExpr>(token.line);
  node->object = std::move(object);
  node->start = std::move(start);
  if (!at_operator(":") && !at_operator("]")) node->stop = expression();
  if (take_operator(":") && !at_operator("]")) node->step = expression();
  expect_operator("]");
  return node;
}

Arguments ExpressionParser::arguments() {
  Arguments arguments;
  expect_operator("(");
  while (!at_operator(")")) {
    const bool no_more_positional =
        !arguments.keyword.empty() || arguments.star || arguments.double_star;
    if (take_operator("**")) {
      arguments.double_star = expression();
    } else if (take_operator("*")) {
      arguments.star = expression();
    } else if (peek().kind == Kind::kName && at_operator("=", 1)) {
      std::string name = next().text;
      next();
      arguments.keyword.emplace_back(std::move(name), expression());
    } else if (no_more_positional) {
      fail_expected("a keyword argument");
    } else {
      arguments.positional.push_back(expression());
    }
    if (!take_operator(",")) break;
  }
  expect_operator(")");
  return arguments;
}

ExprPtr ExpressionParser::call(ExprPtr callee) {
  auto node = make<CallExpr>(peek().line);
  node->callee = std::move(callee);
  node->arguments = arguments();
  return node;
}

ExprPtr ExpressionParser::filters(ExprPtr input, bool first_inline) {
  for (int links = 0; first_inline || at_operator("|"); ++links) {
    if (links > kMaxNesting) fail_expected("a shorter chain");
    if (!std::exchange(first_inline, false)) next();
    auto node = make<FilterExpr>(peek().line);
    node->input = std::move(input);
    node->name = expect_name();
    if (at_operator("(")) node->arguments = arguments();
    input = std::move(node);
  }
  return input;
}

ExprPtr ExpressionParser::test(ExprPtr input) {
  const int line = next().line;
  const bool negated = take_name("not");
  auto node = make<TestExpr>(line);
  node->input = std::move(input);
  node->name = expect_name();
  const Kind kind = peek().kind;
  const bool operand = kind == Kind::kString || kind == Kind::kInteger || kind == Kind::kFloat ||
                       at_operator("[") || at_operator("{") ||
                       (kind == Kind::kName && !at_name("else") && !at_name("or") &&
                        !at_name("and") && !at_name("if") && !at_name("is") && !at_name("in") &&
                        !at_name("not") && !at_name("recursive"));
  if (at_operator("("))
    node->arguments = arguments();
  else if (operand)
    node->arguments.positional.push_back(postfix(primary()));
  if (!negated) return node;
  auto negation = make<UnaryExpr>(line);
  negation->op = UnaryExpr::Op::kNot;
  negation->operand = std::move(node);
  return negation;
}

}  // namespace quern::jinja
