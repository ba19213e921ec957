// Answers requests of tools/text_compare_with_peers.py: one JSON object a line in, one out.
// {"text"} -> {"ids", "decoded"}; {"template", "context", "chat"} -> {"rendered"} or {"error"}.
// Must never be installed: it exists for comparisons with the peers.
#include <iostream>

#include "quern/base/error.h"
#include "quern/text/jinja.h"
#include "quern/text/tokenizer.h"

int main(int argc, char** argv) {
  using namespace quern;
  if (argc != 2) return 2;
  const Tokenizer tokenizer = Tokenizer::load(argv[1]);
  for (std::string line; std::getline(std::cin, line);) {
    const Json request = parse_json(line, "request");
    Json answer = Json::object();
    try {
      if (request.contains("text")) {
        const auto ids = tokenizer.encode(request["text"].get<std::string>());
        answer["ids"] = ids;
        answer["decoded"] = tokenizer.decode(ids, false);
      } else {
        const bool chat = request.value("chat", false);
        const TemplateSyntax syntax = {.trim_blocks = chat, .lstrip_blocks = chat};
        answer["rendered"] = Template::parse(request["template"].get<std::string>(), "t", syntax)
                                 .render(request["context"]);
      }
    } catch (const Error& error) {
      answer["error"] = error.what();
    }
    std::cout << answer.dump() << "\n";
  }
}
