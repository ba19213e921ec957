// See log.h.
#include "quern/base/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

#include <memory>
#include <string>

#include "quern/base/error.h"

namespace quern {

void init_logging(std::string_view level) {
  const auto parsed = spdlog::level::from_str(std::string(level));
  if (parsed == spdlog::level::off && level != "off") {
    throw UsageError("unknown log level '{}'; one of trace, debug, info, warning, error, critical, off", level);
  }
  spdlog::set_default_logger(std::make_shared<spdlog::logger>("quern", std::make_shared<spdlog::sinks::stderr_color_sink_mt>()));
  spdlog::set_pattern("%^%L%$ %H:%M:%S.%e %v");
  spdlog::set_level(parsed);
}

}  // namespace quern
