// The CPU back end: weights, embedding, norms, linear products. See cpu_backend.h.
#include "quern/kernels/cpu/cpu_backend.h"

#include <hwy/targets.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "quern/kernels/cpu/swiglu.h"
#include "quern/kernels/routing.h"
#include "quern/numerics/mxfp4.h"

namespace quern::kernels {
namespace {

constexpr std::int64_t kNormGrain = 4;  // tokens

// bf16(x * rstd * (1 + w)); the mean in float32, eight interleaved partial sums.
void gemma_norm(const float* x, const CpuWeight& weight, float eps, std::int64_t n, float* out) {
  float lanes[8] = {};
  std::int64_t i = 0;
  for (; i + 8 <= n; i += 8) {
    for (int l = 0; l < 8; ++l) lanes[l] += x[i + l] * x[i + l];
  }
  for (; i < n; ++i) lanes[i % 8] += x[i] * x[i];
  const float sum = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) +
                    ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
  const float rstd = 1.0F / std::sqrt(sum / static_cast<float>(n) + eps);
  for (std::int64_t j = 0; j < n; ++j) out[j] = x[j] * rstd * (1.0F + weight.at(j));
}

void round_row(float* values, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) values[i] = round_to_bf16(values[i]);
}

}  // namespace

CpuBackend::CpuBackend(const CpuOptions& options)
    : HostBackend(true),
      products_{options.moe_backend, &mxfp4_kernel(options.instruction_set)},
      team_(options.num_threads),
      exchange_(options.communicator, team_),
      vision_(team_, options.tile_unit == TileUnit::kAuto),
      workers_(static_cast<std::size_t>(team_.size())) {}

WeightHandle CpuBackend::bind(const WeightSource& source) {
  const bool packed =
      source.format == WeightFormat::kMxfp4 || source.format == WeightFormat::kMxfp4WeightOnly;
  const std::int64_t rows = source.weight.shape.at(0);
  QUERN_CHECK(rows > 0);
  const std::int64_t cols = source.weight.size() / rows * (packed ? 2 : 1);
  QUERN_CHECK(!packed || cols % static_cast<std::int64_t>(kMxBlock) == 0);
  return std::make_unique<CpuWeight>(rows, cols, source);
}

void CpuBackend::begin_step(const StepTokens& tokens, const RopeSpec& rope) {
  set_step(tokens, rope, true);
}

void CpuBackend::gather_columns(Matrix x, Matrix out) {
  QUERN_CHECK(split() && out.cols == exchange_.size() * x.cols && out.rows == x.rows);
  exchange_.gather_columns({host(x), x.cols}, x.rows, x.cols, {host(out), out.cols});
}

void CpuBackend::own_columns(Matrix x, Matrix out) {
  QUERN_CHECK(x.cols == exchange_.size() * out.cols && out.rows == x.rows);
  for (std::int64_t r = 0; r < x.rows; ++r)
    std::copy_n(host_row(x, r) + exchange_.rank() * out.cols, out.cols, host_row(out, r));
}

void CpuBackend::embed(const Weight& table, Matrix out) {
  const CpuWeight& weight = cpu(table);
  const std::int64_t begin = exchange_.rank() * weight.rows();
  owners_.clear();
  for (std::int64_t t = 0; t < num_tokens(); ++t) {
    const std::int32_t token = tokens_.token_ids[static_cast<std::size_t>(t)];
    owners_.push_back(static_cast<std::int32_t>(token / weight.rows()));
    if (owners_.back() != exchange_.rank()) continue;
    const std::int64_t first = (token - begin) * out.cols;
    float* row = host_row(out, t);
    for (std::int64_t i = 0; i < out.cols; ++i) row[i] = round_to_bf16(weight.at(first + i));
  }
  if (split()) exchange_.share_rows({host(out), out.cols}, out.cols, owners_);
}

void CpuBackend::rms_norm(Matrix x, const Weight& weight, float eps, Matrix out) {
  team_.parallel_for(num_tokens(), kNormGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      gemma_norm(host_row(x, t), cpu(weight), eps, x.cols, host_row(out, t));
      round_row(host_row(out, t), x.cols);
    }
  });
}

void CpuBackend::add_rms_norm(Matrix x, Matrix residual, const Weight& weight, float eps,
                              Matrix out) {
  team_.parallel_for(num_tokens(), kNormGrain, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      const float* in = host_row(x, t);
      float* stream = host_row(residual, t);
      float* row = host_row(out, t);
      for (std::int64_t i = 0; i < x.cols; ++i) {
        row[i] = in[i] + stream[i];
        stream[i] = round_to_bf16(row[i]);
      }
      gemma_norm(row, cpu(weight), eps, x.cols, row);
      round_row(row, x.cols);
    }
  });
}

std::span<const std::int32_t> CpuBackend::all_rows(std::int64_t count) {
  const auto size = static_cast<std::size_t>(count);
  if (row_ids_.size() < size) {
    row_ids_.resize(size);
    std::iota(row_ids_.begin(), row_ids_.end(), 0);
  }
  return std::span(row_ids_).first(size);
}

void CpuBackend::prepare(std::span<const Projection> projections, Matrix x) {
  input_.reset(x.rows, x.cols);
  bool done[kNumInputForms] = {};
  for (const Projection& projection : projections) {
    const InputForm form = input_form(projection.weight->format(), products_.moe_backend);
    if (std::exchange(done[static_cast<std::size_t>(form)], true)) continue;
    input_.prepare(team_, form, host(x), x.cols, x.cols, 0, x.rows);
  }
}

void CpuBackend::project(std::span<const Projection> projections,
                         std::span<const std::int32_t> tokens, bool round) {
  std::int64_t tiles = 0;
  for (const Projection& p : projections) tiles += (p.weight->rows() + kRowTile - 1) / kRowTile;
  team_.parallel_for(tiles, 1, [&](std::int64_t begin, std::int64_t end, int thread) {
    for (std::int64_t tile = begin; tile < end; ++tile) {
      std::int64_t local = tile;
      const Projection* p = projections.data();
      while (local >= (p->weight->rows() + kRowTile - 1) / kRowTile) {
        local -= (p->weight->rows() + kRowTile - 1) / kRowTile;
        ++p;
      }
      const std::int64_t stride = p->weight->rows();
      const std::int64_t row = local * kRowTile;
      const std::int64_t rows = std::min(kRowTile, stride - row);
      for (std::size_t t = 0; t < tokens.size(); t += kTokenTile) {
        const auto some = tokens.subspan(t, std::min(kTokenTile, tokens.size() - t));
        float* out = p->out + static_cast<std::int64_t>(t) * stride + row;
        dot_rows(*p->weight, row, rows, input_, products_, some, out, stride,
                 workers_[static_cast<std::size_t>(thread)].panel);
        if (!round) continue;
        for (std::size_t i = 0; i < some.size(); ++i) {
          round_row(out + static_cast<std::int64_t>(i) * stride, rows);
        }
      }
    }
  });
}

void CpuBackend::linear(const Weight& weight, Matrix x, Matrix out) {
  const Projection projection{&cpu(weight), host(out)};
  const Matrix rows = x.first_rows(num_tokens());
  prepare({&projection, 1}, rows);
  project({&projection, 1}, all_rows(rows.rows), true);
}

void CpuBackend::logits(const Weight& head, Matrix x, std::span<const std::int32_t> rows,
                        std::span<float> out) {
  const auto count = static_cast<std::int64_t>(rows.size());
  const std::int64_t cols = head.rows();
  float* result = split() ? columns_.reserve(count * cols) : out.data();
  const Projection projection{&cpu(head), result};
  prepare({&projection, 1}, x.first_rows(num_tokens()));
  project({&projection, 1}, rows, true);
  if (split())
    exchange_.gather_to_first({result, cols}, count, cols, {out.data(), exchange_.size() * cols});
}

void CpuBackend::mlp(const MlpWeights& weights, const SwigluSpec& swiglu, Matrix x, Matrix out) {
  const std::int64_t tokens = num_tokens();
  const std::int64_t inner = weights.gate_proj->rows();
  float* gate = mlp_.reserve(2 * tokens * inner);
  float* up = gate + tokens * inner;
  const Projection both[] = {{&cpu(weights.gate_proj), gate}, {&cpu(weights.up_proj), up}};
  prepare(both, x.first_rows(tokens));
  project(both, all_rows(tokens), true);
  team_.parallel_for(tokens * inner, 4096, [&](std::int64_t begin, std::int64_t end, int) {
    swiglu_row(gate + begin, up + begin, end - begin, swiglu, gate + begin);
  });
  const CpuWeight& down = cpu(weights.down_proj);
  const std::int64_t cols = down.rows();
  const Projection projection{&down, split() ? columns_.reserve(tokens * cols) : host(out)};
  if (split()) {
    const InputForm form = input_form(down.format(), products_.moe_backend);
    input_.reset(tokens, down.cols());
    input_.prepare_gathered(team_, exchange_, form, {gate, inner}, inner, 0, tokens);
  } else {
    prepare({&projection, 1}, {gate, tokens, inner});
  }
  project({&projection, 1}, all_rows(tokens), true);
  if (split())
    exchange_.gather_columns({projection.out, cols}, tokens, cols, {host(out), out.cols});
}

void CpuBackend::route(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing) {
  const std::int64_t tokens = num_tokens();
  float* scores = mlp_.reserve(tokens * spec.num_experts);
  const Projection gate{&cpu(weights.gate), scores};
  prepare({&gate, 1}, x.first_rows(tokens));
  project({&gate, 1}, all_rows(tokens), false);  // the router stays in float32
  const auto experts = static_cast<std::size_t>(spec.num_experts);
  const auto per_token = static_cast<std::size_t>(spec.experts_per_token);
  const std::span<const float> bias =
      weights.correction_bias
          ? std::span(reinterpret_cast<const float*>(cpu(weights.correction_bias).data), experts)
          : std::span<const float>();
  for (std::int64_t t = 0; t < tokens; ++t) {
    choose_experts({scores + t * spec.num_experts, experts}, bias,
                   {routing.experts + t * spec.experts_per_token, per_token},
                   {routing.weights + t * spec.experts_per_token, per_token});
  }
}

std::int64_t cpu_arithmetic(bool vision) {
  constexpr std::int64_t kMatrixUnits = std::int64_t{1} << 62;  // Highway's bits end below
  const bool uses_units = vision && amx_tile_kernel() != nullptr;
  return hwy::SupportedTargets() | (uses_units ? kMatrixUnits : 0);
}

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace quern::kernels
