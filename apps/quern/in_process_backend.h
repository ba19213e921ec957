// Declares how `quern eval --model quern` reaches the engine in this process.
// Must never be included by the library: only commands know both eval and engine.
// Proved by tests/apps (the same questions over HTTP and in process).
#pragma once

#include <memory>

#include "quern/base/json.h"
#include "quern/eval/chat_backend.h"

namespace quern::cli {

// `model_args` is the object of --model_args: `pretrained` is the checkpoint's directory; what
// evaluation itself reads (num_concurrent, max_gen_toks, seed, ...: eval/arguments.h) is ignored
// here, the rest are options of the server. Throws UsageError on one that does not exist.
std::unique_ptr<ChatBackend> make_in_process_backend(const Json& model_args);

}  // namespace quern::cli
