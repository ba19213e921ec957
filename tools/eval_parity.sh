#!/bin/sh
# Runs `quern eval` and lm-evaluation-harness against one server and compares them question by question.
#   tools/eval_parity.sh BASE_URL MODEL "TASK=LIMIT ..." [OUT_DIR]
#   e.g. tools/eval_parity.sh http://127.0.0.1:8000/v1/chat/completions m3-tiny "arith=200 gsm8k=200 gsm8k-cot=200"
# A task is the name of a file of src/quern/eval/tasks; its own number of examples is used.
# QUERN: the program (build/release/bin/quern); LM_EVAL: the harness's command (lm_eval of lm-eval[api]);
# MAX_GEN_TOKS (256), CONCURRENT (8); EXTRA: more options of both.
set -eu
base_url=$1 model=$2 tasks=$3
root=$(cd "$(dirname "$0")/.." && pwd)
out=${4:-$(mktemp -d)}
quern=${QUERN:-$root/build/release/bin/quern}
lm_eval=${LM_EVAL:-lm_eval}
args="model=$model,base_url=$base_url,num_concurrent=${CONCURRENT:-8},max_gen_toks=${MAX_GEN_TOKS:-256}"

# Task files for both programs: the embedded ones over data/ by absolute path (the harness would ask the
# hub for GSM8K).
mkdir -p "$out/tasks"
cp "$root"/src/quern/eval/tasks/*.yaml "$out/tasks/"
for entry in $tasks; do
  task=${entry%=*}
  data=$root/data/gsm8k
  [ "$task" = arith ] && data=$root/data/arith
  case $task in *platinum*) train=test ;; *) train=train ;; esac
  name=$(printf '%s' "$task" | tr - _)
  cat > "$out/tasks/${name}_local.yaml" <<YAML
include: $task.yaml
task: ${name}_local
dataset_path: json
dataset_name: null
dataset_kwargs:
  data_files:
    train: $data/$train.jsonl
    test: $data/test.jsonl
YAML
done

for entry in $tasks; do
  task=$(printf '%s' "${entry%=*}" | tr - _) limit=${entry#*=}
  set -- --model local-chat-completions --model_args "$args" --tasks "${task}_local" --batch_size 1 --apply_chat_template --fewshot_as_multiturn --limit "$limit" --log_samples \
    --include_path "$out/tasks" ${EXTRA:-}
  "$quern" eval "$@" --output_path "$out/$task/quern"
  HF_HUB_OFFLINE=1 HF_DATASETS_OFFLINE=1 HF_HOME="$out/hf" "$lm_eval" "$@" --output_path "$out/$task/harness" \
    2> "$out/$task.harness.log" || { tail -5 "$out/$task.harness.log"; exit 1; }
  python3 "$root/tools/eval_compare_samples.py" "$out/$task/quern" "$out/$task/harness"
done
