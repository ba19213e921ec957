// See jinja.h.
#include "quern/text/jinja.h"

#include <utility>

#include "quern/base/error.h"
#include "quern/text/jinja/interpreter.h"
#include "quern/text/jinja/parser.h"
#include "quern/text/jinja/tree_access.h"

namespace quern {

struct Template::Impl {
  std::string name;
  jinja::Tree tree;
};

namespace jinja {
const Tree& tree_of(const Template& parsed) { return parsed.impl_->tree; }
}  // namespace jinja

Template::Template(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Template::Template(Template&&) noexcept = default;
Template& Template::operator=(Template&&) noexcept = default;
Template::~Template() = default;

Template Template::parse(std::string source, std::string name, const TemplateSyntax& syntax) {
  return with_context(name, [&] {
    jinja::Tree tree = jinja::parse_template(source, syntax);
    return Template(std::make_unique<const Impl>(Impl{std::move(name), std::move(tree)}));
  });
}

std::string Template::render(const Json& context, const RenderOptions& options) const {
  jinja::Interpreter interpreter(options, context);
  try {
    return interpreter.render(impl_->tree);
  } catch (Error& error) {
    error.add_context(fmt::format("{}:{}", impl_->name, interpreter.line()));
    throw;
  }
}

}  // namespace quern
