// The CPU back end: the mixture of experts. See cpu_backend.h.
//
// Tokens are grouped by expert, the shared expert being one more group with all tokens; two regions
// carry the work (gate and up of all groups, then down), split in tiles of rows, so that each
// weight is read once a chunk of tokens. Bound, one token: the bytes of its experts; many tokens:
// multiply-adds. Rounding points (vLLM's emulation of OCP MX MoE): gate and up to BF16, activation
// to BF16, down times routing weight in float32 then BF16, the sum over experts in float32 then
// BF16, times the routed scaling factor, plus shared.
//
// Several ranks. Tensor parallel: a rank has rows of every matrix; the inner values are gathered
// before the down projection, which gives the rank's columns of the result. Expert parallel: the
// routed experts are whole on one rank each, which computes their slots from gate to down; an
// all-to-all gives each rank its columns of all slots. From there on both are the same.
#include <algorithm>
#include <utility>

#include "quern/kernels/cpu/cpu_backend.h"
#include "quern/kernels/cpu/swiglu.h"

namespace quern::kernels {
namespace {

// Scratch grows with tokens x experts_per_token x (intermediate + hidden); longer steps are cut.
constexpr std::int64_t kChunkTokens = 512;

}  // namespace

void CpuBackend::moe(const MoeWeights& weights, const MoeSpec& spec, Matrix x, Routing routing,
                     Matrix out) {
  for (std::int64_t first = 0; first < num_tokens(); first += kChunkTokens) {
    moe_chunk(weights, spec, x, routing, out, first, std::min(kChunkTokens, num_tokens() - first));
  }
}

void CpuBackend::group_by_expert(const MoeWeights& weights, const MoeSpec& spec, Routing routing,
                                 std::int64_t first, std::int64_t count) {
  const std::int64_t choices = count * spec.experts_per_token;
  const bool shared = weights.shared.gate_proj != nullptr;
  const auto slots = static_cast<std::size_t>(choices + (shared ? count : 0));
  slot_tokens_.resize(slots);
  slot_weights_.resize(slots);
  slot_of_.resize(slots);
  groups_.clear();
  rank_slots_.assign(static_cast<std::size_t>(exchange_.size()), 0);
  first_whole_slot_ = 0;
  const std::int32_t* experts = routing.experts + first * spec.experts_per_token;
  const float* chosen_weights = routing.weights + first * spec.experts_per_token;
  std::int32_t next = 0;
  for (std::int32_t e = 0; e < spec.num_experts; ++e) {
    const std::int32_t begin = next;
    for (std::int64_t c = 0; c < choices; ++c) {
      if (experts[c] != e) continue;
      slot_tokens_[static_cast<std::size_t>(next)] =
          static_cast<std::int32_t>(c / spec.experts_per_token);
      slot_weights_[static_cast<std::size_t>(next)] = chosen_weights[c];
      slot_of_[static_cast<std::size_t>(c)] = next++;
    }
    const bool whole = spec.expert_parallel && split();
    if (whole) {
      const int owner = e / (spec.num_experts / exchange_.size());
      rank_slots_[static_cast<std::size_t>(owner)] += next - begin;
      if (owner < exchange_.rank()) first_whole_slot_ = next;
      if (owner != exchange_.rank()) continue;
    }
    if (next > begin)
      groups_.push_back({&weights.experts[static_cast<std::size_t>(e)], begin, next, whole});
  }
  if (!shared) return;
  const std::int32_t begin = next;
  for (std::int32_t t = 0; t < count; ++t, ++next) {
    slot_tokens_[static_cast<std::size_t>(next)] = t;
    slot_weights_[static_cast<std::size_t>(next)] = 1.0F;
    slot_of_[static_cast<std::size_t>(next)] = next;
  }
  groups_.push_back({&weights.shared, begin, next, false});
}

void CpuBackend::list_tiles(bool down) {
  tiles_.clear();
  for (std::size_t g = 0; g < groups_.size(); ++g) {
    const MlpWeights& weights = *groups_[g].weights;
    const std::int64_t rows = (down ? weights.down_proj : weights.gate_proj)->rows();
    for (std::int64_t row = 0; row < rows; row += kRowTile)
      tiles_.push_back({static_cast<std::int32_t>(g), row});
  }
}

void CpuBackend::expert_gate_up(const SwigluSpec& swiglu, std::int64_t inner_stride) {
  float* inner = inner_.reserve(static_cast<std::int64_t>(slot_tokens_.size()) * inner_stride);
  list_tiles(false);
  team_.parallel_for(
      static_cast<std::int64_t>(tiles_.size()), 1,
      [&](std::int64_t begin, std::int64_t, int thread) {
        Worker& worker = workers_[static_cast<std::size_t>(thread)];
        const ExpertTile& tile = tiles_[static_cast<std::size_t>(begin)];
        const ExpertGroup& group = groups_[static_cast<std::size_t>(tile.group)];
        const CpuWeight& gate = cpu(group.weights->gate_proj);
        const CpuWeight& up = cpu(group.weights->up_proj);
        const std::int64_t rows = std::min(kRowTile, gate.rows() - tile.row);
        float* products = worker.tile.reserve(2 * static_cast<std::int64_t>(kTokenTile) * kRowTile);
        float* ups = products + static_cast<std::int64_t>(kTokenTile) * kRowTile;
        for (std::int32_t slot = group.begin; slot < group.end;
             slot += static_cast<std::int32_t>(kTokenTile)) {
          const auto count =
              std::min<std::size_t>(kTokenTile, static_cast<std::size_t>(group.end - slot));
          const auto tokens = std::span<const std::int32_t>(slot_tokens_)
                                  .subspan(static_cast<std::size_t>(slot), count);
          dot_rows(gate, tile.row, rows, input_, products_, tokens, products, kRowTile,
                   worker.panel);
          dot_rows(up, tile.row, rows, input_, products_, tokens, ups, kRowTile, worker.panel);
          for (std::size_t i = 0; i < count; ++i) {
            float* out = inner + (slot + static_cast<std::int64_t>(i)) * inner_stride + tile.row;
            const std::int64_t at = static_cast<std::int64_t>(i) * kRowTile;
            swiglu_row(products + at, ups + at, rows, swiglu, out);
          }
        }
      });
}

float* CpuBackend::slot_result(const ExpertGroup& group, std::int32_t slot,
                               std::int64_t cols) const {
  return group.whole ? whole_out_.data() + (slot - first_whole_slot_) * cols
                     : slot_out_.data() + slot * cols;
}

void CpuBackend::expert_down(std::int64_t hidden) {
  const std::int64_t columns = hidden / exchange_.size();
  slot_out_.reserve(static_cast<std::int64_t>(slot_tokens_.size()) * columns);
  whole_out_.reserve(rank_slots_[static_cast<std::size_t>(exchange_.rank())] * hidden);
  const auto slots = all_rows(static_cast<std::int64_t>(slot_tokens_.size()));
  list_tiles(true);
  team_.parallel_for(static_cast<std::int64_t>(tiles_.size()), 1,
                     [&](std::int64_t begin, std::int64_t, int thread) {
                       Worker& worker = workers_[static_cast<std::size_t>(thread)];
                       const ExpertTile& tile = tiles_[static_cast<std::size_t>(begin)];
                       const ExpertGroup& group = groups_[static_cast<std::size_t>(tile.group)];
                       const CpuWeight& down = cpu(group.weights->down_proj);
                       const std::int64_t rows = std::min(kRowTile, down.rows() - tile.row);
                       for (std::int32_t slot = group.begin; slot < group.end;
                            slot += static_cast<std::int32_t>(kTokenTile)) {
                         const auto count = std::min<std::size_t>(
                             kTokenTile, static_cast<std::size_t>(group.end - slot));
                         const std::int64_t stride = down.rows();
                         float* tile_out = slot_result(group, slot, stride) + tile.row;
                         dot_rows(down, tile.row, rows, inner_input_, products_,
                                  slots.subspan(static_cast<std::size_t>(slot), count), tile_out,
                                  stride, worker.panel);
                         for (std::size_t i = 0; i < count; ++i) {
                           const float weight = slot_weights_[static_cast<std::size_t>(slot) + i];
                           float* row = tile_out + static_cast<std::int64_t>(i) * stride;
                           for (std::int64_t r = 0; r < rows; ++r)
                             row[r] = round_to_bf16(row[r] * weight);
                         }
                       }
                     });
}

void CpuBackend::prepare_inner(std::int64_t inner_stride) {
  const auto slots = static_cast<std::int64_t>(slot_tokens_.size());
  float* inner = inner_.reserve(slots * inner_stride);
  std::int64_t widest = 0;
  for (const ExpertGroup& group : groups_)
    widest = std::max(widest, group.weights->down_proj->cols());
  inner_input_.reset(slots, widest);
  for (std::size_t g = 0; g < groups_.size();) {
    // Neighbours with the same format and width are prepared in one region.
    const CpuWeight& down = cpu(groups_[g].weights->down_proj);
    const InputForm form = input_form(down.format(), products_.moe_backend);
    const bool whole = groups_[g].whole || !split();
    const std::int32_t begin = groups_[g].begin;
    std::int32_t end = begin;
    for (; g < groups_.size(); ++g) {
      const CpuWeight& other = cpu(groups_[g].weights->down_proj);
      if (input_form(other.format(), products_.moe_backend) != form ||
          other.cols() != down.cols() || (groups_[g].whole || !split()) != whole)
        break;
      end = groups_[g].end;
    }
    float* rows = inner + begin * inner_stride;
    if (whole) {
      inner_input_.prepare(team_, form, rows, inner_stride, down.cols(), begin, end - begin);
    } else {
      inner_input_.prepare_gathered(team_, exchange_, form, {rows, inner_stride},
                                    down.cols() / exchange_.size(), begin, end - begin);
    }
  }
}

void CpuBackend::moe_chunk(const MoeWeights& weights, const MoeSpec& spec, Matrix x,
                           Routing routing, Matrix out, std::int64_t first, std::int64_t count) {
  group_by_expert(weights, spec, routing, first, count);
  std::int64_t inner_stride = 0;
  bool input_forms[kNumInputForms] = {};
  input_.reset(count, x.cols);
  for (const ExpertGroup& group : groups_) {
    inner_stride = std::max(inner_stride, group.weights->gate_proj->rows());
    for (const WeightHandle* weight : {&group.weights->gate_proj, &group.weights->up_proj}) {
      const InputForm form = input_form((*weight)->format(), products_.moe_backend);
      if (std::exchange(input_forms[static_cast<std::size_t>(form)], true)) continue;
      input_.prepare(team_, form, host_row(x, first), x.cols, x.cols, 0, count);
    }
  }
  expert_gate_up(spec.swiglu, inner_stride);
  prepare_inner(inner_stride);
  expert_down(x.cols);

  const std::int64_t cols = x.cols / exchange_.size();
  if (spec.expert_parallel && split()) {
    exchange_.rows_to_columns({whole_out_.data(), x.cols}, rank_slots_, cols,
                              {slot_out_.data(), cols});
  }
  const float* slot_out = slot_out_.data();
  float* result = split() ? columns_.reserve(count * cols) : host_row(out, first);
  const std::int64_t choices = count * spec.experts_per_token;
  const bool shared = weights.shared.gate_proj != nullptr;
  team_.parallel_for(count, 4, [&](std::int64_t begin, std::int64_t end, int) {
    for (std::int64_t t = begin; t < end; ++t) {
      float* row = result + t * cols;
      const float* shared_row = shared ? slot_out + (choices + t) * cols : nullptr;
      for (std::int64_t i = 0; i < cols; ++i) {
        float sum = 0;
        for (int k = 0; k < spec.experts_per_token; ++k) {
          sum +=
              slot_out[slot_of_[static_cast<std::size_t>(t * spec.experts_per_token + k)] * cols +
                       i];
        }
        const float routed = round_to_bf16(round_to_bf16(sum) * spec.routed_scaling_factor);
        row[i] = shared ? round_to_bf16(routed + shared_row[i]) : routed;
      }
    }
  });
  if (split()) {
    exchange_.gather_columns({result, cols}, count, cols, {host_row(out, first), out.cols});
  }
}

}  // namespace quern::kernels
