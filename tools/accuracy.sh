#!/usr/bin/env bash
# Makes the figures of docs/accuracy.md: models/m3-tiny in BF16 and quantized in three ways.
#   tools/accuracy.sh QUERN OUT_DIR
# THREADS (1) of each run: figures do not depend on it. QUESTIONS (500) of arith.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
quern=$(realpath "${1:?usage: tools/accuracy.sh QUERN OUT_DIR}")
out=$(realpath "${2:?usage: tools/accuracy.sh QUERN OUT_DIR}")
model=$root/models/m3-tiny
threads=${THREADS:-1}
questions=${QUESTIONS:-500}

# Conversations of which the answer is scored: the first 40 questions of the test set.
python3 - "$root/data/arith/test.jsonl" 40 > "$out/texts.jsonl" <<'PY'
import json, sys
for line in open(sys.argv[1]).readlines()[:int(sys.argv[2])]:
    row = json.loads(line)
    print(json.dumps({"messages": [{"role": "user", "content": f"Question: {row['question']}\nAnswer:"},
                                   {"role": "assistant", "content": row["answer"]}]}))
PY

quantize() {  # NAME OPTION...
  "$quern" quantize --model_dir "$model" --output_dir "$out/$1" --overwrite --no_report "${@:2}"
}
quantize mxfp4 --quant_scheme mxfp4
quantize search --quant_scheme mxfp4 --scale_rule search
quantize weight-only --quant_scheme mxfp4_weight_only

"$quern" eval --tasks divergence --reference "$model" --data "$out/texts.jsonl" \
  --reference_logits "$out/base.safetensors" --model_args "pretrained=$model,threads=$threads" > /dev/null
for name in mxfp4 search weight-only; do
  "$quern" eval --tasks divergence --reference "$out/base.safetensors" \
    --model_args "pretrained=$out/$name,threads=$threads" | tee "$out/divergence-$name.txt"
done

for dir in "$model" "$out/mxfp4" "$out/search" "$out/weight-only"; do
  "$quern" eval --model quern --model_args "pretrained=$dir,threads=$threads,num_concurrent=32,max_gen_toks=128" \
    --tasks arith --data_dir "$root/data" --num_fewshot 0 --limit "$questions" --apply_chat_template --log_samples \
    --output_path "$out/eval-$(basename "$dir")"
done
for name in mxfp4 search weight-only; do
  "$quern" compare "$out/eval-m3-tiny" "$out/eval-$name" --html "$out/compare-$name.html"
done
