// See tool_parser_arguments.h.
#include "quern/text/tool_parser_arguments.h"

#include "quern/text/tool_parser_python.h"

namespace quern {

void ArgumentWriter::update(const InvokeBody& body, std::string& out) {
  if (mode_ == ArgumentStreaming::kWhole) return;
  for (; closed_seen_ < body.parameters().size(); ++closed_seen_) {
    write_closed(body.parameters()[closed_seen_], out);
  }
  if (const Element* open = body.open_leaf()) {
    write_open(*open, out);
  } else if (body.broken() && in_text_) {
    end_text(out);
  }
}

void ArgumentWriter::finish(const InvokeBody& body, std::string& out) {
  if (mode_ == ArgumentStreaming::kWhole) {
    out += convert_parameters(body.parameters(), parameters_);
    return;
  }
  if (in_text_) end_text(out);
  if (any_resend_) resend(body.parameters(), out);
  out += any_member_ ? "}" : "{}";
}

void ArgumentWriter::begin_member(std::string_view name, std::string& out) {
  out += any_member_ ? ", " : "{";
  out += python::json_string(name);
  out += ": ";
  any_member_ = true;
}

void ArgumentWriter::write_text(const std::string& text, std::string& out) {
  python::append_escaped(out, std::string_view(text).substr(sent_bytes_));
  sent_bytes_ = text.size();
}

void ArgumentWriter::end_text(std::string& out) {
  out += '"';
  in_text_ = false;
}

void ArgumentWriter::write_closed(const Element& parameter, std::string& out) {
  bool again = false;
  if (in_text_) {
    again = !parameter.children.empty();
    if (!again) write_text(parameter.text, out);
    end_text(out);
  } else if (sent_.contains(parameter.name)) {
    again = true;
  } else {
    begin_member(parameter.name, out);
    out += convert_parameter(parameter, parameters_);
  }
  sent_[parameter.name] |= again;
  any_resend_ |= again;
}

void ArgumentWriter::write_open(const Element& parameter, std::string& out) {
  if (!in_text_) {
    const Json* schema = find_property(parameters_, parameter.name);
    if (parameter.text.empty() || sent_.contains(parameter.name) || schema == nullptr ||
        !is_string_only(*schema)) {
      return;
    }
    begin_member(parameter.name, out);
    out += '"';
    in_text_ = true;
    sent_bytes_ = 0;
    sent_[parameter.name] = false;
  }
  write_text(parameter.text, out);
}

void ArgumentWriter::resend(const std::vector<Element>& parameters, std::string& out) {
  std::vector<const Element*> changed;
  for (const Element& parameter : parameters) {
    if (sent_.at(parameter.name)) changed.push_back(&parameter);
  }
  const std::string object = convert_parameters(changed, parameters_);
  out += ", ";
  out.append(object, 1, object.size() - 2);  // without its braces
}

}  // namespace quern
