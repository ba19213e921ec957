// See base_record.h.
#include "quern/eval/base_record.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <utility>

#include "quern/base/error.h"
#include "quern/base/file.h"
#include "quern/base/progress.h"

namespace quern {
namespace {

std::string layer_name(const char* kind, int layer) { return fmt::format("{}.{}", kind, layer); }

std::vector<TensorSpec> record_tensors(const TextConfig& config, std::int64_t tokens,
                                       std::int64_t scored, std::int64_t texts, bool with_layers) {
  std::vector<TensorSpec> specs{{"token_ids", DType::kI32, {tokens}},
                                {"text_ends", DType::kI64, {texts}},
                                {"first_scored", DType::kI64, {texts}},
                                {"logits", DType::kF32, {scored, config.vocab_size}}};
  for (int i = 0; with_layers && i < static_cast<int>(config.num_hidden_layers); ++i) {
    specs.push_back({layer_name("hidden", i), DType::kF32, {tokens, config.hidden_size}});
    if (config.is_moe_layer(i)) {
      specs.push_back(
          {layer_name("experts", i), DType::kI32, {tokens, config.num_experts_per_tok}});
    }
    if (config.is_sparse_attention_layer(i)) {
      specs.push_back({layer_name("blocks", i),
                       DType::kI32,
                       {tokens, config.num_key_value_heads,
                        config.sparse_attention_config->sparse_topk_blocks}});
    }
  }
  return specs;
}

// Puts rows of tensors at their places in PATH.part, which becomes PATH when all is written.
class Writer {
 public:
  Writer(std::filesystem::path path, std::vector<TensorSpec> specs)
      : path_(std::move(path)), part_(path_.string() + ".part") {
    layout_ = plan_safetensors(std::move(specs));
    for (const TensorInfo& tensor : layout_.tensors) places_[tensor.name] = &tensor;
    fd_ = ::open(part_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd_ < 0) throw_errno(fmt::format("cannot create '{}'", part_.string()));
    try {
      write_at(0, std::as_bytes(std::span(layout_.prefix)));
      if (::ftruncate(fd_, static_cast<off_t>(layout_.file_bytes)) != 0)
        throw_errno(fmt::format("cannot write '{}'", part_.string()));
    } catch (...) {
      discard();
      throw;
    }
  }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer() { discard(); }

  template <typename T>
  void put(const std::string& name, std::size_t first_value, std::span<const T> values) {
    const TensorInfo& tensor = *places_.at(name);
    const std::uint64_t at = tensor.begin + first_value * sizeof(T);
    QUERN_CHECK(at + values.size_bytes() <= tensor.end, "{}", name);
    write_at(at, std::as_bytes(values));
  }

  void commit() {
    if (::fsync(fd_) != 0) throw_errno(fmt::format("cannot write '{}'", part_.string()));
    std::filesystem::rename(part_, path_);
    ::close(std::exchange(fd_, -1));
  }

 private:
  void write_at(std::uint64_t at, std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t put = ::pwrite(fd_, bytes.data(), bytes.size(), static_cast<off_t>(at));
      if (put < 0 && errno == EINTR) continue;
      if (put <= 0) throw_errno(fmt::format("cannot write '{}'", part_.string()));
      at += static_cast<std::uint64_t>(put);
      bytes = bytes.subspan(static_cast<std::size_t>(put));
    }
  }
  void discard() {
    if (fd_ < 0) return;
    ::close(std::exchange(fd_, -1));
    std::error_code ignored;
    std::filesystem::remove(part_, ignored);
  }

  std::filesystem::path path_;
  std::filesystem::path part_;
  SafetensorsLayout layout_;
  std::map<std::string, const TensorInfo*> places_;
  int fd_ = -1;
};

// Values of one token in each kind of layer tensor.
struct Widths {
  explicit Widths(const TextConfig& config)
      : hidden(static_cast<std::size_t>(config.hidden_size)),
        experts(static_cast<std::size_t>(config.num_experts_per_tok)) {
    if (config.sparse_attention_config) {
      blocks = static_cast<std::size_t>(config.num_key_value_heads *
                                        config.sparse_attention_config->sparse_topk_blocks);
    }
  }
  std::size_t hidden;
  std::size_t experts;
  std::size_t blocks = 0;
};

// One text: its layers' rows go to `first_token` on, its logits to `first_row` on.
void record_text(Writer& writer, LogitModel& base, const ScoredText& text, std::size_t first_token,
                 std::size_t first_row, bool with_layers) {
  const std::size_t vocab = base.vocab_size();
  const Widths widths(base.config());
  TextObserver observer;
  observer.on_logits = [&](std::size_t first, std::span<const float> logits) {
    // The row of token t predicts token t + 1; the last token's row predicts nothing known.
    for (std::size_t row = 0; row * vocab < logits.size(); ++row) {
      const std::size_t predicted = first + row + 1;
      if (predicted < text.first_scored || predicted >= text.tokens.size()) continue;
      writer.put("logits", (first_row + predicted - text.first_scored) * vocab,
                 logits.subspan(row * vocab, vocab));
    }
  };
  if (with_layers) {
    observer.on_hidden = [&](int layer, std::size_t first, std::span<const float> rows) {
      writer.put(layer_name("hidden", layer), (first_token + first) * widths.hidden, rows);
    };
    observer.on_experts = [&](int layer, std::size_t first, std::span<const std::int32_t> rows) {
      writer.put(layer_name("experts", layer), (first_token + first) * widths.experts, rows);
    };
    observer.on_blocks = [&](int layer, std::size_t first, std::span<const std::int32_t> rows) {
      writer.put(layer_name("blocks", layer), (first_token + first) * widths.blocks, rows);
    };
  }
  base.run(text.tokens, observer);
}

}  // namespace

void write_base_record(const std::filesystem::path& path, LogitModel& base,
                       const std::vector<ScoredText>& texts, bool with_layers) {
  std::vector<std::int32_t> tokens;
  std::vector<std::int64_t> ends;
  std::vector<std::int64_t> first_scored;
  std::size_t scored = 0;
  for (const ScoredText& text : texts) {
    QUERN_CHECK(text.first_scored >= 1 && text.first_scored < text.tokens.size());
    tokens.insert(tokens.end(), text.tokens.begin(), text.tokens.end());
    ends.push_back(static_cast<std::int64_t>(tokens.size()));
    first_scored.push_back(static_cast<std::int64_t>(text.first_scored));
    scored += text.scored();
  }
  Writer writer(path, record_tensors(base.config(), static_cast<std::int64_t>(tokens.size()),
                                     static_cast<std::int64_t>(scored),
                                     static_cast<std::int64_t>(texts.size()), with_layers));
  writer.put<std::int32_t>("token_ids", 0, tokens);
  writer.put<std::int64_t>("text_ends", 0, ends);
  writer.put<std::int64_t>("first_scored", 0, first_scored);
  Progress progress("Base model", tokens.size(), ProgressUnit::kItems);
  std::size_t first_token = 0;
  std::size_t first_row = 0;
  for (const ScoredText& text : texts) {
    record_text(writer, base, text, first_token, first_row, with_layers);
    first_token += text.tokens.size();
    first_row += text.scored();
    progress.add(text.tokens.size());
  }
  writer.commit();
}

BaseRecord::BaseRecord(const std::filesystem::path& path) : file_(path) {
  with_context(path.string(), [&] {
    const TensorView ids = view("token_ids", DType::kI32, 1);
    const TensorView ends = view("text_ends", DType::kI64, 1);
    const TensorView firsts = view("first_scored", DType::kI64, 1);
    const TensorView logits = view("logits", DType::kF32, 2);
    vocab_ = static_cast<std::size_t>(logits.shape[1]);
    tokens_ = static_cast<std::size_t>(ids.size());
    if (ends.size() != firsts.size() || ends.size() == 0)
      throw Error("text_ends and first_scored must have the same size above 0");
    std::int64_t begin = 0;
    for (std::int64_t i = 0; i < ends.size(); ++i) {
      const std::int64_t end = ends.as<std::int64_t>()[i];
      const std::int64_t first = firsts.as<std::int64_t>()[i];
      if (end <= begin || end > ids.size() || first < 1 || first >= end - begin)
        throw Error("text {} ends at {} and is scored from {}, of {} tokens", i, end, first,
                    ids.size());
      const std::int32_t* tokens = ids.as<std::int32_t>();
      for (std::int64_t t = begin; t < end; ++t) {
        if (tokens[t] < 0 || static_cast<std::size_t>(tokens[t]) >= vocab_)
          throw Error("token {} is outside the vocabulary of {}", tokens[t], vocab_);
      }
      texts_.push_back({{tokens + begin, tokens + end}, static_cast<std::size_t>(first)});
      scored_ += texts_.back().scored();
      begin = end;
    }
    if (begin != ids.size() || logits.shape[0] != static_cast<std::int64_t>(scored_))
      throw Error("{} logits rows for {} scored tokens, {} of {} tokens in texts", logits.shape[0],
                  scored_, begin, ids.size());
    logits_ = {logits.as<float>(), static_cast<std::size_t>(logits.size())};
  });
}

TensorView BaseRecord::view(const std::string& name, DType dtype, std::size_t rank) const {
  const TensorInfo* info = file_.find(name);
  if (info == nullptr) throw Error("no tensor '{}' (not a record of a base model?)", name);
  if (info->dtype != dtype || info->shape.size() != rank) {
    throw Error("tensor '{}' is {} {}, expected {} of {} dimensions", name, dtype_name(info->dtype),
                shape_text(info->shape), dtype_name(dtype), rank);
  }
  return file_.view(*info);
}

std::span<const float> BaseRecord::logits(std::size_t scored_row) const {
  return logits_.subspan(scored_row * vocab_, vocab_);
}

template <typename T>
std::span<const T> BaseRecord::layer_values(const char* kind, int layer, DType dtype,
                                            std::size_t rank) const {
  const std::string name = layer_name(kind, layer);
  if (file_.find(name) == nullptr) return {};
  return with_context(path().string(), [&]() -> std::span<const T> {
    const TensorView found = view(name, dtype, rank);
    if (found.shape[0] != static_cast<std::int64_t>(tokens_))
      throw Error("tensor '{}' has {} rows for {} tokens", name, found.shape[0], tokens_);
    return {found.as<T>(), static_cast<std::size_t>(found.size())};
  });
}

std::span<const float> BaseRecord::hidden(int layer) const {
  return layer_values<float>("hidden", layer, DType::kF32, 2);
}
std::span<const std::int32_t> BaseRecord::experts(int layer) const {
  return layer_values<std::int32_t>("experts", layer, DType::kI32, 2);
}
std::span<const std::int32_t> BaseRecord::blocks(int layer) const {
  return layer_values<std::int32_t>("blocks", layer, DType::kI32, 3);
}

}  // namespace quern
