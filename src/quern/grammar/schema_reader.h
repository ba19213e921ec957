// A JSON Schema (draft 2020-12, and what older drafts wrote differently) read for generation: what
// may stand at a place, whatever the notation of the answer.
// Must never ignore a keyword that restricts: what is not implemented is refused by name and place.
// Proved by tests/grammar/json_schema_test.cc and json_schema_suite_test.cc.
#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "quern/base/json.h"
#include "quern/grammar/char_automaton.h"
#include "quern/grammar/compile_time.h"
#include "quern/grammar/number_text.h"

namespace quern::grammar {

// Types of JSON values, as bits. Every integer is a number.
enum TypeBits : unsigned {
  kNullType = 1,
  kBooleanType = 2,
  kIntegerType = 4,
  kNumberType = 8,
  kStringType = 16,
  kArrayType = 32,
  kObjectType = 64,
  kAllTypes = 127,
};

struct SchemaOptions {
  // Objects and arrays have the members that their schema declares, unless it says otherwise
  // (xgrammar's strict mode), and a schema without a type is of the type that its keywords speak
  // of. False: as the standard has it.
  bool closed = true;
  std::chrono::milliseconds time = kCompileTime;
};

// Schemas that hold together. `own` of an entry: its references and combinations are already
// entries of their own.
struct SchemaEntry {
  const Json* schema;
  bool own = false;
  auto operator<=>(const SchemaEntry&) const = default;
};
using Conjunction = std::vector<SchemaEntry>;  // sorted, unique

struct ObjectShape {
  struct Property {
    std::string name;
    Conjunction value;
    bool required = false;
  };
  // Keys beyond the declared ones.
  struct Keys {
    CharAutomaton names;
    bool any = false;  // all texts: `names` is not needed
    Conjunction value;
  };
  std::vector<Property> properties;  // as declared
  std::vector<Keys> more;
  std::int64_t min = 0;
  std::optional<std::int64_t> max;
};

struct ArrayShape {
  std::vector<Conjunction> prefix;
  std::optional<Conjunction> rest;  // none: the prefix is all
  std::int64_t min = 0;
  std::optional<std::int64_t> max;
};

// Bounds beyond these are held to them (upper ones) or refused (lower ones).
inline constexpr std::int64_t kLongestString = 20000;
inline constexpr std::int64_t kLongestArray = 4096;

class SchemaReader {
 public:
  // `schema` outlives the reader. Throws Error when it is neither object nor boolean.
  SchemaReader(const Json& schema, const SchemaOptions& options);

  Conjunction root() const { return {{&schema_, false}}; }

  // The ways to satisfy all entries, each without references and combinations. Empty: none.
  std::vector<Conjunction> alternatives(const Conjunction& entries);
  // All below want what alternatives() gave.
  unsigned types(const Conjunction& entries) const;
  // What `enum` and `const` leave; nothing without them.
  std::optional<std::vector<Json>> values(const Conjunction& entries);
  bool constrains_text(const Conjunction& entries) const;
  CharAutomaton text(const Conjunction& entries);
  NumberBounds numbers(const Conjunction& entries) const;
  ObjectShape object(const Conjunction& entries);
  ArrayShape array(const Conjunction& entries) const;

  // Throws when reading the schema takes longer than it may.
  void tick() const;

  // A plain validator over the keywords that are supported.
  bool valid(const Json& instance, const Conjunction& entries, int depth = 0);

 private:
  struct Union {
    const Json* owner;
    const Json* branches;
    std::string_view keyword;
  };

  // Of an object, by name: the object itself is searched from its start.
  using Members = std::unordered_map<std::string_view, const Json*>;

  [[noreturn]] void fail(const Json& schema, std::string_view what) const;
  std::string path_of(const Json& schema) const;
  void index_names(const Json& value);
  void check(const Json& schema);
  void check_keyword(const Json& schema, const std::string& key, const Json& value);
  const Json& resolve(const Json& owner, const std::string& reference) const;
  bool flatten(const Conjunction& entries, Conjunction& flat, std::vector<Union>& unions);
  void check_one_of(const Union& choice, const Conjunction& base);
  bool disjoint(const Conjunction& a, const Conjunction& b, int depth);
  bool disjoint_flat(const Conjunction& a, const Conjunction& b, int depth);
  bool disjoint_objects(const Conjunction& a, const Conjunction& b, int depth);
  Conjunction value_of(const Conjunction& entries, const std::vector<Members>& properties,
                       const std::string& name);
  const CharAutomaton& pattern(const Json& schema, const std::string& regex);
  void add_keys(const Conjunction& entries, const std::vector<std::string>& declared,
                ObjectShape& shape);
  bool valid_flat(const Json& instance, const Conjunction& flat, int depth);
  bool valid_object(const Json& instance, const Conjunction& flat, int depth);
  bool valid_array(const Json& instance, const Conjunction& flat, int depth);

  const Json& schema_;
  const SchemaOptions options_;
  const std::chrono::steady_clock::time_point deadline_;
  std::map<std::string, const Json*, std::less<>> named_;  // $id and #$anchor
  std::map<const Json*, bool> checked_;
  std::set<std::pair<const Json*, Conjunction>> checked_one_ofs_;  // branches, what is around them
  int one_of_depth_ = 0;
  std::map<std::string, CharAutomaton, std::less<>> patterns_;
};

// A member, or null.
const Json* schema_member(const Json& schema, std::string_view key);

}  // namespace quern::grammar
