// Rank 0 as rank_job_test.cc needs it: fake_rank MODE --socket PATH.
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <string>
#include <vector>

#include "quern/base/error.h"
#include "quern/distributed/rank_link.h"

int main(int argc, char** argv) {
  using namespace quern;
  QUERN_CHECK(argc == 4 && std::string(argv[2]) == "--socket");
  const std::string mode = argv[1];
  try {
    RankLink link(argv[3], std::chrono::milliseconds(mode == "echo-800" ? 800 : 20000));
    std::vector<std::byte> bytes;
    for (;;) {
      const auto request = link.receive(std::chrono::seconds(1), bytes);
      if (!request) continue;
      if (request->kind == kFrameEnd) return 0;
      if (request->kind == kFrameFirstFree) {
        if (mode == "refuse") {
          link.send_text(kFrameError, "no model here");
        } else {
          link.send_text(kFrameReady, std::to_string(::getpid()));
        }
        continue;
      }
      if (mode == "die") ::raise(SIGKILL);
      if (mode == "stop") ::raise(SIGSTOP);
      link.send(kFrameResult, bytes);
    }
  } catch (const Error&) {
    return 1;
  }
}
