// The packages of OpenAI and Anthropic talk to the server: every field of what they get. Runs where
// they are installed: QUERN_CLIENTS_PYTHON names a Python that has them (python3).
#include <gtest/gtest.h>

#include <string>

#include "tests/apps/command.h"

namespace quern::cli {
namespace {

CommandResult talk(const std::string& package) {
  return shell(
      "PY=${QUERN_CLIENTS_PYTHON:-python3}; $PY -c 'import " + package +
      "' 2>/dev/null || exit 77; D=$(mktemp -d); "
      "$QUERN serve $ROOT/models/m3-tiny --host 127.0.0.1 --port 0 --tool-call-parser "
      "minimax_m3 --enable-auto-tool-choice --reasoning-parser minimax_m3 >$D/out 2>$D/err "
      "& PID=$!; for i in $(seq 200); do URL=$(sed -n 's/^listening on //p' $D/out); "
      "[ -n \"$URL\" ] && curl -sf $URL/health && break; sleep 0.05; done; "
      "timeout 300 $PY $ROOT/tools/" +
      package + "_client_check.py $URL; S=$?; kill $PID; wait $PID; rm -r $D; exit $S");
}

class Clients : public testing::TestWithParam<const char*> {};

TEST_P(Clients, HoldAConversation) {
  const CommandResult result = talk(GetParam());
  if (result.status == 77) GTEST_SKIP() << "no package '" << GetParam() << "'";
  EXPECT_EQ(result.status, 0) << result.output;
}

INSTANTIATE_TEST_SUITE_P(Packages, Clients, testing::Values("openai", "anthropic"),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace quern::cli
