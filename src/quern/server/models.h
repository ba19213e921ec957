// The list of models, /v1/models.
// Must never say less than clients need to adapt: longest request, what the model can take.
// Proved by tests/server/api_test.cc.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "quern/base/json.h"

namespace quern::server {

struct ModelListing {
  std::vector<std::string> names;
  std::string root;
  std::string fingerprint;
  int max_model_len = 0;
  bool tools = false;
  bool reasoning = false;
  bool images = false;
  bool videos = false;
  std::int64_t created = 0;
};

// One entry a name, vLLM's members followed by ours (`capabilities`, `fingerprint`).
Json models_json(const ModelListing& listing);

}  // namespace quern::server
