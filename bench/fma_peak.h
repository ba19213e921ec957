// What float32 multiply-adds this machine can do, measured: independent chains in registers on
// every thread. Must never touch memory in its loop.
#pragma once

namespace quern::bench {

// Multiply-adds a second of `threads` threads together.
double multiply_add_peak(int threads);

}  // namespace quern::bench
