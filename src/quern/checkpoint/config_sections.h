// Sections that more than one configuration file has.
// Must never be included outside this folder.
// Proved by tests/checkpoint/model_config_test.cc.
#pragma once

#include "quern/checkpoint/config_reader.h"
#include "quern/checkpoint/model_config.h"

namespace quern {

// parent's "img_token_compression_config"; absent keys keep the values of `defaults`.
TokenCompressionConfig read_token_compression(const ConfigReader& parent,
                                              TokenCompressionConfig defaults);

}  // namespace quern
