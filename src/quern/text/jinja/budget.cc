// See budget.h.
#include "quern/text/jinja/budget.h"

#include <cstdlib>

#include "quern/base/error.h"

namespace quern::jinja {
namespace {

constexpr std::ptrdiff_t kMaxStackBytes = 3 << 20;  // threads have 8 MiB

const char* stack_position() { return static_cast<const char*>(__builtin_frame_address(0)); }

}  // namespace

Budget::Budget(const RenderOptions& options)
    : options_(options), outer_(current_budget), stack_start_(stack_position()) {
  current_budget = this;
}

void Budget::step(std::size_t count) {
  if (std::abs(stack_start_ - stack_position()) > kMaxStackBytes) throw Error("nested too deep");
  steps_ += count;
  if (steps_ > options_.max_steps) throw Error("more than {} steps", options_.max_steps);
}

void Budget::check_size(std::size_t bytes) const {
  if (bytes > options_.max_output_bytes) {
    throw Error("a value of more than {} bytes", options_.max_output_bytes);
  }
}

void Budget::hold(std::size_t bytes) {
  held_bytes_ += bytes;
  if (held_bytes_ <= options_.max_value_bytes) return;
  held_bytes_ -= bytes;
  throw Error("values of more than {} bytes", options_.max_value_bytes);
}

}  // namespace quern::jinja
