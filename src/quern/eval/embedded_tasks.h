// The task files that are part of the program, by file name ("gsm8k.yaml").
// Must never be edited by hand: CMake writes the definition from src/quern/eval/tasks.
// Proved by tests/eval/task_file_test.cc.
#pragma once

#include <map>
#include <string>
#include <string_view>

namespace quern {

const std::map<std::string, std::string_view>& embedded_task_files();

}  // namespace quern
