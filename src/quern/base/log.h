// Logging: spdlog's default logger, to stderr, so that stdout carries results only.
// Must never be called inside a decode step.
// Proved by use: every command logs through it.
#pragma once

#include <spdlog/spdlog.h>

#include <string_view>

namespace quern {

// Configures the default logger once at start-up; `level` is spdlog's name (trace, debug, info, ...).
void init_logging(std::string_view level = "info");

}  // namespace quern
