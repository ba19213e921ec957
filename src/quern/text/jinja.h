// A Jinja template: parsed once, rendered with a JSON context. The dialect is that of jinja2 3.1
// with transformers' chat-template additions (break/continue, generation blocks, raise_exception,
// ...). Must never run unbounded: steps, depth, memory and output size are limited. Proved by
// tests/text/jinja_golden_test.cc and jinja_limits_test.cc.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "quern/base/json.h"

namespace quern {

class Template;
namespace jinja {
struct Tree;
const Tree& tree_of(const Template& parsed);
}  // namespace jinja

struct TemplateSyntax {
  // Defaults of jinja2.Environment(); chat templates set the first two.
  bool trim_blocks = false;
  bool lstrip_blocks = false;
  bool keep_trailing_newline = false;
};

struct RenderOptions {
  // An undefined value may only be tested for: printing, iterating or comparing it is an error.
  bool strict_undefined = false;
  std::size_t max_steps = 50'000'000;         // nodes evaluated, items and text gone through
  std::size_t max_output_bytes = 256u << 20;  // rendered text and any single string
  std::size_t max_value_bytes = 1u << 30;     // all values alive at a time, the context among them
  int max_depth = 200;                        // nested macro calls, loops and expressions
};

// Immutable after parse(): render() may be called from several threads at once.
class Template {
 public:
  // `name` stands in errors: "NAME:LINE: what".
  static Template parse(std::string source, std::string name, const TemplateSyntax& syntax = {});

  Template(Template&&) noexcept;
  Template& operator=(Template&&) noexcept;
  ~Template();

  // `context` is an object: its members are the template's variables.
  std::string render(const Json& context, const RenderOptions& options = {}) const;

 private:
  friend const jinja::Tree& jinja::tree_of(const Template& parsed);
  struct Impl;
  explicit Template(std::unique_ptr<const Impl> impl);
  std::unique_ptr<const Impl> impl_;
};

}  // namespace quern
