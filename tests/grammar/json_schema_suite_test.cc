// The JSON Schema Test Suite (draft 2020-12): of each schema that is supported, every valid
// instance is accepted and every invalid one refused, but for the listed exceptions.
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "tests/grammar/schema_helper.h"

namespace quern::grammar {
namespace {

// Valid instances in another spelling: a number written with a fraction of zero (or an exponent)
// where an integer is meant, members in another order than the schema declares.
const std::set<std::string> kOtherSpellings = {
    "allOf: allOf with base schema: valid",
    "allOf: allOf: allOf",
    "const: const with -2.0 matches integer and float types: integer -2 is valid",
    "const: const with 0 does not match other zero-like types: float zero is valid",
    "const: const with 1 does not match true: float one is valid",
    "const: const with object: same object with different property order is valid",
    "const: float and integers are equal up to 64-bit representation limits: float is valid",
    "enum: enum with 0 does not match false: float zero is valid",
    "enum: enum with 1 does not match true: float one is valid",
    "enum: enum with [0] does not match [false]: [0.0] is valid",
    "enum: enum with [1] does not match [true]: [1.0] is valid",
    "type: integer type matches integers: a float with zero fractional part is an integer",
};

// How many schemas of the suite are refused for a keyword.
const std::map<std::string, int> kRefused = {
    {"contains", 17},
    {"not", 9},
    {"oneOf", 8},
    {"if", 8},
    {"dependentSchemas", 5},
    {"dependentRequired", 4},
    {"multipleOf", 4},
    {"uniqueItems", 3},
    {"then", 3},
    {"else", 2},
    {"maxContains", 1},
    {"minContains", 1},
    {"unevaluatedProperties", 1},
    {"$ref", 13},
};

TEST(JsonSchemaSuite, ValidAcceptedInvalidRefused) {
  const std::string path = QUERN_SOURCE_DIR "/tests/golden/grammar/json_schema_suite.json";
  const Json rows = parse_json(read_file(path, std::size_t{8} << 20), path,
                               {.max_depth = 128, .reject_duplicate_keys = false});
  std::map<std::string, int> refused;
  std::set<std::string> other_spellings;
  int supported = 0;
  int instances = 0;
  for (const Json& row : rows) {
    const std::string name = row[0].get<std::string>() + ": " + row[1].get<std::string>();
    Automaton automaton;
    bool nothing_fits = false;
    try {
      automaton = test::compile_schema(row[2], false);
    } catch (const Error& error) {
      const std::string text = error.what();
      nothing_fits = text.find("no text can satisfy") != std::string::npos;
      if (!nothing_fits) {  // json schema, at '#/...': ... 'keyword' ...
        const std::size_t begin = text.find('\'', text.find("': ") + 1) + 1;
        ++refused[text.substr(begin, text.find('\'', begin) - begin)];
        continue;
      }
    }
    ++supported;
    for (const Json& test : row[3]) {
      ++instances;
      const bool accepted = !nothing_fits && test::accepts(automaton, test[1].dump());
      const std::string instance = name + ": " + test[0].get<std::string>();
      if (test[2] == false) {
        EXPECT_FALSE(accepted) << instance;
      } else if (!accepted) {
        other_spellings.insert(instance);
      }
    }
  }
  EXPECT_EQ(other_spellings, kOtherSpellings);
  EXPECT_EQ(refused, kRefused);
  EXPECT_EQ(supported, 165);
  EXPECT_EQ(instances, 580);
}

}  // namespace
}  // namespace quern::grammar
