// Runs prompts of token ids through llama.cpp or ik_llama.cpp, for
// tools/gguf_compare_with_peers.py. A line of standard input is a prompt: its first number is how
// many tokens to generate at most, the others are its ids. The last word of the command line is the
// id that ends an answer. Out: to LOGITS float32 [prompt tokens, vocabulary] of each prompt; a line
// of standard output each with the greedy tokens. Must never be installed: it exists for
// comparisons with the peers. How to build it: bench/README.md.
#include <llama.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

// One decode of the tokens at positions first, first + 1, ...; logits of all of them.
void decode(llama_context* context, const std::vector<llama_token>& tokens, int first) {
  const int count = static_cast<int>(tokens.size());
  llama_batch batch = llama_batch_init(count, 0, 1);
  batch.n_tokens = count;
  for (int i = 0; i < count; ++i) {
    batch.token[i] = tokens[i];
    batch.pos[i] = first + i;
    batch.n_seq_id[i] = 1;
    batch.seq_id[i][0] = 0;
    batch.logits[i] = 1;
  }
  if (llama_decode(context, batch) != 0) {
    std::cerr << "llama_decode failed at position " << first << "\n";
    std::exit(1);
  }
  llama_batch_free(batch);
}

llama_token best(const float* logits, int vocabulary) {
  return static_cast<llama_token>(std::max_element(logits, logits + vocabulary) - logits);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) {
    std::cerr << "usage: gguf_peer_driver MODEL.gguf LOGITS END_TOKEN < PROMPTS\n";
    return 2;
  }
  llama_backend_init();
  llama_model* model = llama_model_load_from_file(argv[1], llama_model_default_params());
  if (model == nullptr) return 1;
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  const llama_token end = std::atoi(argv[3]);
  std::FILE* out = std::fopen(argv[2], "wb");
  if (out == nullptr) return 1;

  llama_context_params params = llama_context_default_params();
  params.n_ctx = 4096;
  params.n_batch = params.n_ubatch = 2048;
  params.n_threads = params.n_threads_batch = 1;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    int wanted = 0;
    words >> wanted;
    std::vector<llama_token> prompt;
    for (llama_token id; words >> id;) prompt.push_back(id);

    llama_context* context = llama_init_from_model(model, params);
    if (context == nullptr) return 1;
    decode(context, prompt, 0);
    const int length = static_cast<int>(prompt.size());
    for (int i = 0; i < length; ++i) {
      std::fwrite(llama_get_logits_ith(context, i), sizeof(float), vocabulary, out);
    }
    llama_token next = best(llama_get_logits_ith(context, length - 1), vocabulary);
    for (int made = 0; made < wanted; ++made) {
      std::cout << next << " ";
      if (next == end || made + 1 == wanted) break;
      decode(context, {next}, length + made);
      next = best(llama_get_logits_ith(context, 0), vocabulary);
    }
    std::cout << "\n";
    llama_free(context);
  }
  // The model is left to the end of the process: the peers have different names for freeing it.
  return std::fclose(out) == 0 ? 0 : 1;
}
