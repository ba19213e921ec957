// See models.h. Layout: vLLM entrypoints/openai/models/protocol.py.
#include "quern/server/models.h"

#include <utility>

#include "quern/server/sampling_plan.h"

namespace quern::server {
namespace {

Json permission(std::int64_t created) {
  return {{"id", "modelperm-" + random_id()},
          {"object", "model_permission"},
          {"created", created},
          {"allow_create_engine", false},
          {"allow_sampling", true},
          {"allow_logprobs", true},
          {"allow_search_indices", false},
          {"allow_view", true},
          {"allow_fine_tuning", false},
          {"organization", "*"},
          {"group", nullptr},
          {"is_blocking", false}};
}

}  // namespace

Json models_json(const ModelListing& listing) {
  Json data = Json::array();
  for (const std::string& name : listing.names) {
    data.push_back({{"id", name},
                    {"object", "model"},
                    {"created", listing.created},
                    {"owned_by", "quern"},
                    {"root", listing.root},
                    {"parent", nullptr},
                    {"max_model_len", listing.max_model_len},
                    {"permission", Json::array({permission(listing.created)})},
                    {"capabilities",
                     {{"images", listing.images},
                      {"videos", listing.videos},
                      {"tools", listing.tools},
                      {"reasoning", listing.reasoning},
                      {"structured_output", true},
                      {"context_length", listing.max_model_len}}},
                    {"fingerprint", listing.fingerprint}});
  }
  return {{"object", "list"}, {"data", std::move(data)}};
}

}  // namespace quern::server
