#!/bin/sh
# Takes every picture of docs/images: trains and scores the shipped example once, opens both tabs and the report in
# Chromium, then running WebUIs (NAME=ADDRESS ...), which show the latest runs in their own output folder.
# usage: screenshots.sh VENV BROWSER_VENV WORK_FOLDER PICTURES [NAME=ADDRESS ...]
set -eu
python=$1/bin/python camera="$2/bin/python tests/browser/screenshots.py" work=$3 pictures=$4
shift 4
port=7899
run=$work/lora-eval/mave
score=$run-scorecard
mkdir -p "$work"
[ -d "$work/pictures" ] || cp -r lora_eval/assets/datasets/mave "$work/pictures"
[ -f "$run/mave.safetensors" ] || "$python" -m lora_eval train lora_eval/assets/demo.yaml \
  "train_data_dir=$work/pictures" "output_dir=$run" save_steps=100 sample_steps=50 \
  'sample_prompts=["a red {trigger}, gray background", "a striped green {trigger} on the left, brown background"]'
"$python" -m lora_eval score --lora "$run"/mave-*.safetensors "$run/mave.safetensors" --kind object --suite tiny \
  --preset quick --prompts 12 --out "$score"
"$python" -m lora_eval ui --port $port --out "$work" &
page=$!
trap 'kill $page' EXIT
until "$python" -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2>/dev/null; do
  kill -0 $page
  sleep 1
done
$camera "http://127.0.0.1:$port" "$pictures" --data "$work/pictures" --trigger mave --report "$score/report.html"
for host in "$@"; do
  $camera "${host#*=}" "$pictures" --prefix "${host%%=*}-" --few
done
