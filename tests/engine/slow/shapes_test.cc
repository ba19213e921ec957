// Colour and shape of all pictures of data/shapes: the float32 reference against the engine in BF16
// and MXFP4; minutes.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "quern/base/json.h"
#include "quern/kernels/factory.h"
#include "quern/model/text_model.h"
#include "quern/model/vision_tower.h"
#include "tests/engine/image_requests.h"
#include "tests/engine/invariance.h"
#include "tests/support/temp_directory.h"

namespace quern::engine::test {
namespace {

struct Question {
  std::string picture;
  std::string answer;
  GenerationRequest request;

  std::string size() const {
    const auto from = picture.rfind('_') + 1;
    return picture.substr(from, picture.find('.') - from);
  }
};

std::vector<Question> questions(ImageRequests& make) {
  std::vector<Question> result;
  const std::string text = read_file(QUERN_SOURCE_DIR "/data/shapes/test.jsonl", 1 << 20);
  for (std::size_t at = 0; at < text.size();) {
    const auto end = text.find('\n', at);
    const Json line = parse_json(std::string_view(text).substr(at, end - at), "test.jsonl");
    at = end + 1;
    Question question{line["image"], line["answer"], {}};
    question.request.id = question.picture;
    question.request.sampling.temperature = 0;
    question.request.sampling.max_tokens = 16;
    make.append_text(
        "]~!b[]~b]system\nYour model is m3-tiny, a small test model in the MiniMax-M3 format.\n\n"
        "<thinking_instructions>\nThinking mode: adaptive. Think when it helps.\n"
        "</thinking_instructions>[e~[\n]~b]developer\nYou are a helpful assistant.[e~[\n]~b]user\n",
        question.request);
    make.append_image(question.picture, question.request);
    make.append_text(line["question"].get<std::string>() + "[e~[\n]~b]ai\n", question.request);
    result.push_back(std::move(question));
  }
  return result;
}

// The model in float32 without any rounding, token by token.
class FloatModel {
 public:
  FloatModel()
      : checkpoint_(Checkpoint::open(kTinyModel)),
        config_(parse_model_config(checkpoint_.config())),
        backend_(kernels::make_reference_backend(kernels::Rounding::kNone)),
        model_(checkpoint_, config_, *backend_, {512, 1}),
        tower_(checkpoint_, config_, *backend_, {}),
        cache_(backend_->create_kv_cache(model_.kv_cache_spec(4))),
        tokenizer_(Tokenizer::load(kTinyModel)) {}

  std::string answer(const GenerationRequest& request) {
    const vision::ImagePatches* patches = request.images[0].patches.get();
    std::vector<float> features(static_cast<std::size_t>(patches->num_tokens) *
                                static_cast<std::size_t>(tower_.hidden_size()));
    tower_.encode({&patches, 1}, features);
    const model::FeatureRows rows{request.images[0].offset, features};
    std::vector<float> logits(static_cast<std::size_t>(model_.vocab_size()));
    std::vector<std::int32_t> table(4), output;
    std::iota(table.begin(), table.end(), 0);
    model::SequenceChunk chunk{request.prompt, 0, table, true, {&rows, 1}};
    int position = 0;
    const std::int32_t eos = *tokenizer_.token_id("[e~[");
    while (output.size() < 16) {
      model_.forward({&chunk, 1}, *cache_, logits);
      position += static_cast<int>(chunk.token_ids.size());
      output.push_back(
          static_cast<std::int32_t>(std::ranges::max_element(logits) - logits.begin()));
      if (output.back() == eos) break;
      chunk = {{&output.back(), 1}, position, table, true, {}};
    }
    return tokenizer_.decode(output, true);
  }

 private:
  Checkpoint checkpoint_;
  ModelConfig config_;
  std::unique_ptr<kernels::Backend> backend_;
  model::TextModel model_;
  model::VisionTower tower_;
  std::unique_ptr<kernels::KvCache> cache_;
  Tokenizer tokenizer_;
};

std::vector<std::string> engine_answers(const std::filesystem::path& model,
                                        const std::vector<Question>& all) {
  EngineOptions options;
  options.model_dir = model;
  options.kv_cache_bytes = 64 << 20;
  std::vector<GenerationRequest> requests;
  for (const Question& question : all) requests.push_back(question.request);
  std::vector<std::string> answers;
  for (const Generated& result : run(options, {.num_threads = 2}, std::move(requests)).results) {
    answers.push_back(result.text);
  }
  return answers;
}

int count_right(const char* name, const std::vector<Question>& all,
                const std::vector<std::string>& answers) {
  std::map<std::string, int> right;
  int sum = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const bool match = answers[i] == "</mm:think>" + all[i].answer;
    right[all[i].size()] += match ? 1 : 0;
    sum += match ? 1 : 0;
  }
  std::printf("%s: %d of %zu (", name, sum, all.size());
  for (const auto& [size, count] : right) std::printf(" %s: %d of 18", size.c_str(), count);
  std::printf(" )\n");
  return sum;
}

TEST(Shapes, AllPictures) {
  ImageRequests make;
  const std::vector<Question> all = questions(make);
  ASSERT_EQ(all.size(), 54U);
  FloatModel reference;
  std::vector<std::string> expected;
  for (const Question& question : all) expected.push_back(reference.answer(question.request));
  const quern::test::TempDirectory directory;
  quantize(kTinyModel, directory / "quantized");
  const int exact = count_right("float32 reference", all, expected);
  const int bf16 = count_right("BF16", all, engine_answers(kTinyModel, all));
  const int mxfp4 = count_right("MXFP4", all, engine_answers(directory / "quantized", all));
  // Rounding turns answers that are nearly tied, either way; a wrong tower or place loses most.
  EXPECT_GE(bf16, exact - 3);
  EXPECT_GE(mxfp4, exact - 5);
}

}  // namespace
}  // namespace quern::engine::test
