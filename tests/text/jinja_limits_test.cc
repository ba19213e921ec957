// Templates that try to use more time, memory or stack than a rendering has: each must end with the
// error of its limit.
#include <gtest/gtest.h>

#include <thread>

#include "quern/base/error.h"
#include "quern/text/jinja.h"

namespace quern {
namespace {

struct Hostile {
  const char* source;
  const char* error;
};

// 40 levels of a list that holds the one below twice: 2^40 printed items in 40 lists.
#define QUERN_SHARED_LIST                                                                     \
  "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] " \
  "%}{% set ns.y = [ns.y, ns.y] %}{% endfor %}"
#define QUERN_NESTING(value)                                                     \
  "{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% set ns.x = " value \
  " %}"                                                                          \
  "{% endfor %}"
#define QUERN_LONG "{% set a = 'a' * 1000000 %}"

const Hostile kHostile[] = {
    // Destroying a value is recursive: its depth is bounded when it is built.
    {QUERN_NESTING("[ns.x]"), "more than 1000 nested levels"},
    {QUERN_NESTING("(ns.x,)"), "more than 1000 nested levels"},
    {QUERN_NESTING("{'a': ns.x}"), "more than 1000 nested levels"},
    {QUERN_NESTING("{(1, 2): ns.x}.items()"), "more than 1000 nested levels"},
    {QUERN_NESTING("dict(a=ns.x)"), "more than 1000 nested levels"},
    {QUERN_NESTING("[ns.x].copy"), "more than 1000 nested levels"},
    {QUERN_NESTING("cycler(ns.x)"), "more than 1000 nested levels"},
    {QUERN_NESTING("cycler(ns.x).next"), "more than 1000 nested levels"},
    {QUERN_NESTING("joiner(ns.x)"), "more than 1000 nested levels"},
    {"{% set ns = namespace(x=1) %}{% for i in range(99999) %}{% for j in [ns.x] %}"
     "{% set ns.x = loop %}{% endfor %}{% endfor %}",
     "more than 1000 nested levels"},
    {"{% set ns = namespace(x=1) %}{% for i in [1] %}{% set ns.x = loop %}{% endfor %}"
     "{{ ns.x.changed(ns.x) }}",
     "loop.changed() was called behind the loop"},
    // Shared values: few objects, any number of items for who goes through them.
    {QUERN_SHARED_LIST "{{ ns.x }}", "more than"},
    {QUERN_SHARED_LIST "{{ ns.x | string }}", "more than"},
    {QUERN_SHARED_LIST "{{ ns.x | pprint }}", "more than"},
    {QUERN_SHARED_LIST "{{ ns.x | tojson }}", "more than"},
    {QUERN_SHARED_LIST "{{ ns.x | tojson(indent=4) }}", "more than"},
    {QUERN_SHARED_LIST "{{ ns.x == ns.y }}", "steps"},
    {QUERN_SHARED_LIST "{{ ns.x < ns.y }}", "steps"},
    {QUERN_SHARED_LIST "{{ ns.x in [1, ns.y] }}", "steps"},
    {QUERN_SHARED_LIST "{{ [1, ns.y].index(ns.x) }}", "steps"},
    {QUERN_SHARED_LIST "{{ [ns.x, ns.y] | sort }}", "steps"},
    {QUERN_SHARED_LIST "{{ '%r' % (ns.x,) }}", "more than"},
    {"{% set ns = namespace(x=(1,)) %}{% for i in range(40) %}{% set ns.x = (ns.x, ns.x) %}"
     "{% endfor %}{{ {ns.x: 1} }}",
     "more than"},
    {"{% set ns = namespace(x=1, y=1) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}"
     "{% set ns.y = [ns.y] %}{% endfor %}{{ ns.x == ns.y }}",
     "nested deeper than 100 levels"},
    // Output larger than what it is made of.
    {QUERN_LONG "{{ range(1000) | join(a) }}", "more than 2000000 bytes"},
    {QUERN_LONG "{{ a.join(['b'] * 1000) }}", "more than 2000000 bytes"},
    {QUERN_LONG "{{ range(1000) | list | tojson(separators=(a, ':')) }}", "2000000 bytes"},
    {QUERN_LONG "{{ a.replace('', a) }}", "more than"},
    {QUERN_LONG "{{ ('<' * 1000000) | escape }}", "more than 2000000 bytes"},
    {"{{ ('a\\n' * 20000) | indent(1000) }}", "more than 2000000 bytes"},
    {"{{ ('\\u00e9' * 500000) | urlencode }}", "more than"},
    // Many values that are alive at once.
    {QUERN_LONG "{% set ns = namespace(x=[]) %}{% for i in range(99) %}"
                "{% set ns.x = ns.x + [a ~ i] %}{% endfor %}",
     "values of more than 20000000 bytes"},
    {"{{ ('a' * 1000000) | list }}", "more than"},
    {"{{ ('a,' * 500000).split(',') }}", "more than"},
    {"{{ ('\\n' * 1000000).splitlines() }}", "more than"},
    {"{{ [1] * 1000000 }}", "more than"},
    {"{% macro f(n) %}{{ 'a' * 1000000 }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "more than"},
    // Text costs steps by its length.
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.upper() %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a | title %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.strip() %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a[1:] %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a[::-1] %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.isalpha() %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.startswith(a) %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a is lower %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a | wordcount %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a | int %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a == a %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = {a: 1} %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.partition('b') %}{% endfor %}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = 'a' * 1000000 %}{% endfor %}", "steps"},
    {QUERN_LONG "{{ a.strip('b' * 1000000 ~ 'a') }}", "steps"},
    {QUERN_LONG "{{ a.rfind('b' ~ 'a' * 500000) }}", "steps"},
    {QUERN_LONG "{{ a.rsplit('b' ~ 'a' * 500000) }}", "steps"},
    {QUERN_LONG "{% for i in range(99999) %}{% set b = a.find('a' * 500000 ~ 'b') %}{% endfor %}",
     "steps"},
    // Products of two lists.
    {"{{ range(20000) | map('format', *range(20000)) | list }}", "steps"},
    {"{{ range(20000) | select('defined', *range(20000)) | list }}", "steps"},
    {"{{ strftime_now('%c' * 1000) }}", "at most 1000 bytes"},
};

TEST(JinjaLimits, HostileTemplatesEndWithTheirLimit) {
  RenderOptions options;
  options.max_steps = 1'000'000;
  options.max_output_bytes = 2'000'000;
  options.max_value_bytes = 20'000'000;
  for (const auto& [source, expected] : kHostile) {
    const Template parsed = Template::parse(source, "t");
    try {
      parsed.render(Json::object(), options);
      ADD_FAILURE() << "rendered: " << source;
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(expected), std::string::npos) << source << "\n"
                                                                             << error.what();
    }
  }
}

TEST(JinjaLimits, ANamespaceOfManyAttributesCostsWhatItsSearchCosts) {
  Json context = Json::object();
  for (int i = 0; i < 20'000; ++i) context["d"]["k" + std::to_string(i)] = i;
  const Template parsed = Template::parse("{% set ns = namespace(d) %}{{ ns.k1 }}", "t");
  EXPECT_THROW(parsed.render(context, {.max_steps = 3'000'000}), Error);
  EXPECT_EQ(parsed.render({{"d", {{"k1", 7}}}}), "7");
}

TEST(JinjaLimits, WhatIsWithinThemRenders) {
  const std::pair<const char*, const char*> rows[] = {
      {"{% set ns = namespace(x=1) %}{% for i in range(90) %}{% set ns.x = [ns.x] %}{% endfor %}"
       "{{ (ns.x | tojson) | length }}",
       "181"},
      {"{% set ns = namespace(x=1) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}"
       "{{ ns.x | length }}",
       "1"},
      // A namespace holds itself without being nested.
      {"{% set ns = namespace(x=1) %}{% for i in range(3000) %}{% set ns.x = namespace(x=ns.x, "
       "y=ns) %}{% endfor %}{{ ns.x.y.x.y == ns }}",
       "True"},
      {"{% for i in [1, 1, 2] %}{{ loop.changed(i, loop) }}{% endfor %}", "TrueFalseTrue"},
      {"{{ 'h\u00e9llo'[1:3] }}{{ 'h\u00e9llo'[-4] }}{{ 'h\u00e9llo'[::-2] }}", "\u00e9l\u00e9olh"},
      {"{{ 'hello'[9:] }}{{ 'hello'[::99] }}{{ 'hello'[::-99] }}{{ [1, 2, 3][::-2] }}", "ho[3, 1]"},
      {"{{ 'abcabc'.rfind('bc') }}{{ 'abcabc'.find('bc', 2) }}{{ 'aXbXc'.rsplit('X', 1) }}",
       "44['aXb', 'c']"},
  };
  for (const auto& [source, rendered] : rows) {
    EXPECT_EQ(Template::parse(source, "t").render(Json::object()), rendered) << source;
  }
}

// Values are counted while they live: a loop may make more than the limit, one after the other.
TEST(JinjaLimits, ValuesThatAreGoneDoNotCount) {
  const Template parsed = Template::parse(
      "{% for i in range(50) %}{% set b = 'a' * 1000000 %}{{ b | length }},{% endfor %}", "t");
  EXPECT_EQ(parsed.render(Json::object(), {.max_value_bytes = 10'000'000}).size(), 400u);
}

// The budget is that of the thread: renderings side by side do not share it.
TEST(JinjaLimits, OneBudgetARendering) {
  const Template parsed =
      Template::parse("{% set x = [1, 'a', 2] * 1000 %}{{ (x | tojson) | length }}", "t");
  const RenderOptions options{.max_steps = 20'000};
  std::thread other([&] {
    for (int i = 0; i < 20; ++i) EXPECT_EQ(parsed.render(Json::object(), options), "11000");
  });
  for (int i = 0; i < 20; ++i) EXPECT_EQ(parsed.render(Json::object(), options), "11000");
  other.join();
}

}  // namespace
}  // namespace quern
