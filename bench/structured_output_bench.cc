// What does structured output cost a token? Microseconds for a new mask, a mask whose states are
// known and a token taken, for several grammars, with the vocabulary of m3-tiny and a synthetic one
// of 200,064 tokens. The bound of a known mask is one pass over vocabulary / 8 bytes.
// Must never time less than what the engine does for a token: fill() and accept().
// Masks are proved by tests/grammar/token_mask_test.cc.
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "quern/grammar/structured_output.h"
#include "quern/text/tokenizer.h"
#include "quern/text/utf8.h"

namespace {

using namespace quern;
using namespace quern::grammar;
using Clock = std::chrono::steady_clock;

double microseconds(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

// 256 bytes and words of the shape of a large vocabulary: letters with and without a blank in
// front, digits, punctuation, white space, other scripts.
std::vector<std::string> synthetic_vocabulary(std::size_t size) {
  std::mt19937 random(1);
  std::set<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.insert({static_cast<char>(byte)});
  const std::string marks = "\"{}[]:,.;<>()/\\-_=+*!?'\n\t ";
  while (texts.size() < size) {
    std::string text;
    const auto kind = random() % 10;
    if (kind < 6 && random() % 2 == 0) text += ' ';
    for (auto n = 1 + random() % 9; n > 0; --n) {
      if (kind < 6) {
        text += static_cast<char>('a' + random() % 26);
      } else if (kind == 6) {
        text += static_cast<char>('0' + random() % 10);
        if (text.size() == 3) break;
      } else if (kind == 7) {
        text += marks[random() % marks.size()];
      } else {
        append_utf8(text, static_cast<char32_t>(kind == 8 ? 0x400 + random() % 0x100
                                                          : 0x4E00 + random() % 0x5000));
        if (text.size() > 11) break;
      }
    }
    texts.insert(text);
  }
  std::vector<std::string> result(texts.begin(), texts.end());
  std::ranges::shuffle(result, random);
  return result;
}

std::vector<std::string> texts_of(const Tokenizer& tokenizer) {
  std::vector<std::string> texts(static_cast<std::size_t>(tokenizer.vocab_size()));
  for (std::size_t id = 0; id < texts.size(); ++id) {
    const auto token = static_cast<std::int32_t>(id);
    if (!tokenizer.is_special(token)) texts[id] = tokenizer.token_bytes(token);
  }
  return texts;
}

struct Times {
  double compile_ms = 0;
  std::vector<double> fill, accept;
};

// Random answers: what a sampler at a high temperature does. Every mask of a grammar that has not
// been used before is new at first.
Times run(const StructuredOutput& output, const std::vector<std::string>& texts,
          const std::shared_ptr<const TokenTrie>& trie) {
  Times times;
  const auto begin = Clock::now();
  const auto grammar = std::make_shared<const TokenGrammar>(compile(output), trie);
  times.compile_ms = microseconds(begin) / 1000;
  std::mt19937 random(2);
  std::vector<MaskWord> mask(mask_words(trie->vocab_size()));
  for (int answer = 0; answer < 20; ++answer) {
    TokenMatcher matcher(grammar);
    for (int step = 0; step < 100; ++step) {
      const auto fill = Clock::now();
      const bool any = matcher.fill(mask);
      times.fill.push_back(microseconds(fill));
      if (!any) break;
      auto token = static_cast<std::int32_t>(random() % texts.size());
      while (!mask_has(mask, token)) token = (token + 1) % trie->vocab_size();
      const auto accept = Clock::now();
      matcher.accept(texts[static_cast<std::size_t>(token)]);
      times.accept.push_back(microseconds(accept));
    }
  }
  return times;
}

double quantile(std::vector<double> values, double share) {
  std::ranges::sort(values);
  return values.empty()
             ? 0
             : values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
}

StructuredOutput json(const char* schema) {
  StructuredOutput output;
  output.kind = StructuredOutput::Kind::kJsonSchema;
  output.schema = Json::parse(schema);
  return output;
}

StructuredOutput text(StructuredOutput::Kind kind, std::string value) {
  StructuredOutput output;
  output.kind = kind;
  output.text = std::move(value);
  return output;
}

}  // namespace

int main() {
  StructuredOutput tools;
  tools.kind = StructuredOutput::Kind::kToolCalls;
  tools.tools = Json::parse(
      R"([{"type":"function","function":{"name":"get_weather","parameters":{"type":"object",
      "properties":{"city":{"type":"string"},"days":{"type":"integer","minimum":1,"maximum":14}},
      "required":["city"]}}}])");
  const std::pair<const char*, StructuredOutput> grammars[] = {
      {"json_object", {}},
      {"person", json(R"({"type":"object","properties":{"name":{"type":"string"},
         "age":{"type":"integer"},"tags":{"type":"array","items":{"type":"string"}}},
         "required":["name","age","tags"]})")},
      {"string up to 2000", json(R"({"type":"string","maxLength":2000})")},
      {"recursive tree", json(R"({"$ref":"#/$defs/n","$defs":{"n":{"type":"object","properties":{
         "value":{"type":"number"},"children":{"type":"array","items":{"$ref":"#/$defs/n"}}},
         "required":["value","children"]}}})")},
      {"regex", text(StructuredOutput::Kind::kRegex, "[A-Z][a-z]+ [0-9]{3}-[0-9]{4}( .*)?")},
      {"ebnf sums", text(StructuredOutput::Kind::kGrammar,
                         "root ::= p (\"+\" p)*\np ::= [0-9]+ | \"(\" root \")\"")},
      {"tool calls", tools},
  };
  const Tokenizer tokenizer = Tokenizer::load(QUERN_SOURCE_DIR "/models/m3-tiny");
  const std::pair<const char*, std::vector<std::string>> vocabularies[] = {
      {"m3-tiny, 2,048", texts_of(tokenizer)},
      {"synthetic, 200,064", synthetic_vocabulary(200064)}};
  for (const auto& [name, texts] : vocabularies) {
    const auto begin = Clock::now();
    const auto trie = std::make_shared<const TokenTrie>(texts);
    fmt::print("\nvocabulary: {} tokens; trie of {} nodes in {:.0f} ms\n", name, trie->size(),
               microseconds(begin) / 1000);
    fmt::print("{:<20} {:>10} {:>9} {:>9} {:>9} {:>9} {:>10}\n", "grammar", "compile ms",
               "mask p50", "mask p90", "mask mean", "mask max", "accept p50");
    for (const auto& [title, output] : grammars) {
      const Times times = run(output, texts, trie);
      double sum = 0;
      for (const double t : times.fill) sum += t;
      fmt::print("{:<20} {:>10.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>9.1f} {:>10.2f}\n", title,
                 times.compile_ms, quantile(times.fill, 0.5), quantile(times.fill, 0.9),
                 sum / static_cast<double>(times.fill.size()), quantile(times.fill, 1),
                 quantile(times.accept, 0.5));
    }
  }
  fmt::print("\nmask and accept in microseconds, cold caches included (max: a state seen first)\n");
}
