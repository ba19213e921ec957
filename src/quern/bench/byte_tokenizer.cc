// See byte_tokenizer.h.
#include "quern/bench/byte_tokenizer.h"

#include <fmt/format.h>

#include <iterator>
#include <string>

#include "quern/base/file.h"
#include "quern/base/json.h"

namespace quern::bench {
namespace {

// The last ids of the vocabulary: MiniMax-M3's marks of a chat.
struct Mark {
  const char* content;
  bool special;
};
constexpr Mark kMarks[] = {{"]~!b[", true},          {"]~b]", true},        {"[e~[", true},
                           {"]<]minimax[>[", false}, {"<mm:think>", false}, {"</mm:think>", false}};
constexpr std::int64_t kNumMarks = std::size(kMarks);
constexpr std::int64_t kBos = 0, kEos = 2;  // places in kMarks

constexpr const char* kChatTemplate =
    "]~!b[{% for message in messages %}]~b]{{ message.role }}\n"
    "{{ message.content }}[e~[\n{% endfor %}{% if add_generation_prompt %}]~b]ai\n{% endif %}";

// How a byte-level vocabulary writes a byte (GPT-2's encoder.py): printable Latin-1 as it is, the
// others from U+0100 on in order.
std::string byte_symbol(int byte) {
  int code = byte;
  const auto printable = [](int b) { return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b != 0xAD); };
  if (!printable(byte)) {
    code = 0x100;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 0x80) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
}

std::string tokenizer_json(std::int64_t vocab_size) {
  const std::int64_t first_mark = vocab_size - kNumMarks;
  // By hand: a JSON object of 200,000 keys is slow to build.
  std::string vocab;
  for (int byte = 0; byte < 256; ++byte)
    vocab += fmt::format("{}{}: {}", byte == 0 ? "" : ", ", Json(byte_symbol(byte)).dump(), byte);
  for (std::int64_t id = 256; id < first_mark; ++id)
    vocab += fmt::format(", \"{}w{}\": {}", byte_symbol(' '), id, id);
  Json added = Json::array();
  for (std::int64_t i = 0; i < kNumMarks; ++i) {
    added.push_back({{"id", first_mark + i},
                     {"content", kMarks[i].content},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", kMarks[i].special}});
  }
  return fmt::format(
      "{{\"version\": \"1.0\", \"truncation\": null, \"padding\": null, \"added_tokens\": {},\n"
      "\"normalizer\": null, \"pre_tokenizer\": {{\"type\": \"ByteLevel\", \"add_prefix_space\": "
      "false, \"trim_offsets\": true, \"use_regex\": true}}, \"post_processor\": null,\n"
      "\"decoder\": {{\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"trim_offsets\": "
      "true, "
      "\"use_regex\": true}},\n\"model\": {{\"type\": \"BPE\", \"vocab\": {{{}}}, \"merges\": "
      "[]}}}}\n",
      added.dump(), vocab);
}

}  // namespace

std::int64_t byte_tokenizer_bos(std::int64_t vocab_size) { return vocab_size - kNumMarks + kBos; }
std::int64_t byte_tokenizer_eos(std::int64_t vocab_size) { return vocab_size - kNumMarks + kEos; }

void write_byte_tokenizer(const std::filesystem::path& directory, std::int64_t vocab_size) {
  write_file(directory / "tokenizer.json", tokenizer_json(vocab_size));
  const Json config = {{"tokenizer_class", "GPT2Tokenizer"},
                       {"bos_token", kMarks[kBos].content},
                       {"eos_token", kMarks[kEos].content}};
  write_file(directory / "tokenizer_config.json", config.dump(2) + "\n");
  write_file(directory / "chat_template.jinja", kChatTemplate);
  const Json generation = {{"bos_token_id", byte_tokenizer_bos(vocab_size)},
                           {"eos_token_id", byte_tokenizer_eos(vocab_size)},
                           {"do_sample", true}};
  write_file(directory / "generation_config.json", generation.dump(2) + "\n");
}

}  // namespace quern::bench
