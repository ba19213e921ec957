#include "quern/grammar/ebnf.h"

#include <gtest/gtest.h>

#include <string>

#include "quern/base/error.h"
#include "quern/grammar/automaton.h"
#include "quern/grammar/matcher.h"

namespace quern::grammar {
namespace {

struct EbnfRow {
  const char* grammar;
  const char* text;
  bool accepted;
};

TEST(Ebnf, Cases) {
  const char* sql =
      "root ::= select_statement\n"
      "select_statement ::= \"SELECT \" column \" from \" table \" where \" condition\n"
      "column ::= \"col_1 \" | \"col_2 \"\n"
      "table ::= \"table_1 \" | \"table_2 \"\n"
      "condition ::= column \"= \" number\n"
      "number ::= \"1 \" | \"2 \"\n";
  const char* sums =
      "root ::= sum # left recursive\n"
      "sum ::= sum \"+\" product | sum \"-\" product | product\n"
      "product ::= product \"*\" atom | atom\n"
      "atom ::= [0-9]+ | \"(\" sum \")\"\n";
  const EbnfRow rows[] = {
      {sql, "SELECT col_1  from table_2  where col_2 = 1 ", true},
      {sql, "SELECT col_3 ", false},
      {sums, "1+2*(3-4)", true},
      {sums, "1+", false},
      {sums, "+1", false},
      {"root ::= (\"a\" | 'b')+ [^c-z]? \"\\x41\\n\\u00e9\"", "abA\n\xC3\xA9", true},
      {"root ::= [a-c]{2,3}", "abc", true},
      {"root ::= [a-c]{2,3}", "a", false},
      {"root ::= \"x\"{2}", "xx", true},
      {"root ::= \"x\"{2,}", "xxxx", true},
      {"root ::=\n  | \"a\"\n  | \"b\"\n", "b", true},
      {"root ::=\n  | \"a\"\n  | \"b\"\n", "", true},
      {"root ::= a b\na ::= \"x\"\n\nb ::= \"\"\n", "x", true},
      {"root ::= .", "\xF0\x9F\x98\x80", true},
      {"root ::= [\\]\\-a]+", "]-a", true},
      {"root ::= [\\d_]+", "1_2", true},
      {"root ::= my-rule.x\nmy-rule.x ::= \"ok\"", "ok", true},
  };
  for (const EbnfRow& row : rows) {
    GrammarBuilder builder;
    const RuleId root = parse_ebnf(row.grammar, builder);
    const Automaton automaton = compile(builder, root);
    Matcher matcher(automaton);
    EXPECT_EQ(matcher.accept(row.text) && matcher.can_end(), row.accepted)
        << row.grammar << " on " << row.text;
  }
}

TEST(Ebnf, Errors) {
  const std::pair<const char*, const char*> rows[] = {
      {"start: \"a\" | \"b\"", "Lark grammars are not supported"},
      {"top ::= \"a\"", "no rule named 'root'"},
      {"root ::= other", "rule 'other' is not defined"},
      {"root ::= \"a\"\n\nother ::= missing", "line 3: rule 'missing'"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2: rule 'root' is defined twice"},
      {"root ::= \"a", "a literal has no end"},
      {"root ::= [a", "character class has no end"},
      {"root ::= [z-a]", "out of order"},
      {"root ::= (\"a\"", "expected )"},
      {"root ::= \"a\" (= \"b\")", "lookahead"},
      {"root ::= /abc/", "/regex/"},
      {"root ::= \"\\q\"", "escape \\q"},
      {"root ::= \"\\xZZ\"", "hexadecimal"},
      {"root ::= \"a\"{3,2}", "smaller than its minimum"},
      {"root ::= \"a\"{999999}", "above 50000"},
      {"root ::= )", "expected the name of a rule"},
      {"::= \"a\"", "expected the name of a rule"},
  };
  for (const auto& [grammar, text] : rows) {
    try {
      GrammarBuilder builder;
      parse_ebnf(grammar, builder);
      ADD_FAILURE() << grammar << " was accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  }
  GrammarBuilder builder;
  EXPECT_THROW(parse_ebnf("root ::= " + std::string(1000, '('), builder), Error);
}

TEST(Ebnf, NestingIsBounded) {
  GrammarBuilder stacked;
  EXPECT_THROW(parse_ebnf("root ::= \"a\"" + std::string(100'000, '*'), stacked), Error);
  // Rules that become part of their callers do so to a depth; deeper ones are called.
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 15'000; ++i) {
    chain += "r" + std::to_string(i) + " ::= r" + std::to_string(i + 1) + "*\n";
  }
  GrammarBuilder builder;
  const RuleId root = parse_ebnf(chain + "r15000 ::= \"a\"\n", builder);
  EXPECT_NO_THROW(compile(builder, root));
}

}  // namespace
}  // namespace quern::grammar
