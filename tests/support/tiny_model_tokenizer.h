// m3-tiny's tokenizer, read once.
// Must never be changed by a test.
// Proved by use.
#pragma once

#include "quern/text/tokenizer.h"
#include "tests/support/tiny_model.h"

namespace quern::test {

inline const Tokenizer& tiny_model_tokenizer() {
  static const Tokenizer tokenizer = Tokenizer::load(kTinyModel);
  return tokenizer;
}

}  // namespace quern::test
