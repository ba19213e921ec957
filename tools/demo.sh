#!/usr/bin/env bash
# The whole pipeline on models/m3-tiny: quantize to MXFP4, serve both models, ask both, measure both,
# compare. Usage: tools/demo.sh QUERN [MODEL_DIR [OUTPUT_DIR [QUESTIONS]]]. Every number is computed here.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
quern=$(realpath "${1:?usage: tools/demo.sh QUERN [MODEL_DIR [OUTPUT_DIR [QUESTIONS]]]}")
model=$(realpath "${2:-$root/models/m3-tiny}")
out=${3:-$root/demo-output}
questions=${4:-200}
mkdir -p "$out"
out=$(realpath "$out")

declare -A pid url
stop_servers() {
  for name in "${!pid[@]}"; do kill "${pid[$name]}" 2>/dev/null || true; done
  for name in "${!pid[@]}"; do wait "${pid[$name]}" 2>/dev/null || true; done
}
trap stop_servers EXIT
trap 'exit 130' INT TERM

title() { printf '\n== %s\n' "$*"; }
run() { printf '$ %s\n' "${*/#$quern/quern}"; "$@"; }

# The server chooses a free port and prints it; /health answers when the model is loaded.
start() {  # NAME DIR
  local log="$out/$1.log" address="$out/$1.address"
  : >"$address"  # there before sed looks, whichever of the two starts first
  "$quern" serve "$2" --host 127.0.0.1 --port 0 --served-model-name "$1" \
    --tool-call-parser minimax_m3 --enable-auto-tool-choice --reasoning-parser minimax_m3 \
    --disable-log-stats >"$address" 2>"$log" &
  pid[$1]=$!
  for _ in $(seq 600); do
    url[$1]=$(sed -n 's/^listening on //p' "$address")
    if [ -n "${url[$1]}" ] && curl -sf -o /dev/null --max-time 2 "${url[$1]}/health"; then
      echo "$1: ${url[$1]}"
      return
    fi
    kill -0 "${pid[$1]}" 2>/dev/null || { cat "$log" >&2; echo "demo: server $1 ended" >&2; exit 1; }
    sleep 0.1
  done
  echo "demo: server $1 did not become ready" >&2
  exit 1
}

ask() {  # NAME BODY
  curl -sS --fail-with-body --max-time 120 "${url[$1]}/v1/chat/completions" \
    -H 'Content-Type: application/json' -d "$2"
  echo
}

title "1. Quantize $(basename "$model") to MXFP4"
run "$quern" quantize --model_dir "$model" --output_dir "$out/mxfp4" --quant_scheme mxfp4 --overwrite

title "2. Serve the BF16 and the MXFP4 model"
start bf16 "$model"
start mxfp4 "$out/mxfp4"

# A word problem of the test set, and a question with a tool.
question=$(sed -n '1s/^{"question": "\(.*\)", "answer".*$/\1/p' "$root/data/arith/test.jsonl")
tool='{"type":"function","function":{"name":"get_weather","description":"Get the current weather in a city.","parameters":{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}}}'
title "3. A chat answer from each"
printf 'Question: %s\n' "$question"
for name in bf16 mxfp4; do
  printf '%s: ' "$name"
  ask "$name" '{"messages":[{"role":"user","content":"Question: '"$question"'\nAnswer:"}],"max_tokens":128,"temperature":0}'
done
title "4. A tool call from each"
echo "Question: What is the weather in Oslo?"
for name in bf16 mxfp4; do
  printf '%s: ' "$name"
  ask "$name" '{"messages":[{"role":"user","content":"What is the weather in Oslo?"}],"tools":['"$tool"'],"max_tokens":128,"temperature":0}'
done

picture=green_triangle_112.png
title "5. A picture answered by each"
echo "Picture: data/shapes/$picture. Question: What is in this picture?"
for name in bf16 mxfp4; do
  printf '%s: ' "$name"
  ask "$name" '{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,'"$(base64 -w0 "$root/data/shapes/$picture")"'"}},{"type":"text","text":"What is in this picture?"}]}],"max_tokens":32,"temperature":0}'
done

title "6. Evaluate both: $questions questions, 5-shot, 8 at a time, over HTTP"
for name in bf16 mxfp4; do
  rm -rf "$out/eval-$name"
  run "$quern" eval --model local-chat-completions \
    --model_args "model=$name,base_url=${url[$name]}/v1/chat/completions,num_concurrent=8,max_gen_toks=128" \
    --tasks arith --data_dir "$root/data" --num_fewshot 5 --limit "$questions" \
    --apply_chat_template --fewshot_as_multiturn --log_samples --output_path "$out/eval-$name/"
  printf 'steps that carried more than one request: %s\n' \
    "$(curl -sf "${url[$name]}/metrics" | sed -n 's/^quern:shared_steps_total{[^}]*} //p')"
done

title "7. Compare"
run "$quern" compare "$out/eval-bf16" "$out/eval-mxfp4"

# The card speaks of the checkpoint and of these results only; tests/apps checks it.
title "8. Model card of the quantized checkpoint"
run "$quern" card "$out/mxfp4" --base "$model" --results "$out/eval-mxfp4" --base_results "$out/eval-bf16" --overwrite
cat "$out/mxfp4/README.md"
