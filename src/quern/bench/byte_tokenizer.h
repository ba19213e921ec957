// A tokenizer for a checkpoint of random weights: a token a byte of text, made-up words for the
// other ids, and the marks of a chat. Must never leave an id of the vocabulary without a token.
// Proved by tests/bench/random_checkpoint_test.cc.
#pragma once

#include <cstdint>
#include <filesystem>

namespace quern::bench {

// 256 bytes and what a chat needs.
inline constexpr std::int64_t kMinByteVocabulary = 512;

std::int64_t byte_tokenizer_bos(std::int64_t vocab_size);
std::int64_t byte_tokenizer_eos(std::int64_t vocab_size);

// Writes tokenizer.json, tokenizer_config.json, chat_template.jinja and generation_config.json.
void write_byte_tokenizer(const std::filesystem::path& directory, std::int64_t vocab_size);

}  // namespace quern::bench
