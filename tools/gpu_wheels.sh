#!/usr/bin/env bash
# Wheels for a GPU machine that has torch, transformers, peft and scikit-image for Python 3.12 but no network:
# tools/gpu_wheels.sh FOLDER. There: pip install --no-index --no-deps --target DIR FOLDER/*.whl and PYTHONPATH=DIR.
set -euo pipefail
folder=${1:-.whl}
mkdir -p "$folder"
rm -f "$folder"/*.whl
python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
  --platform manylinux_2_28_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 -d "$folder" \
  diffusers open_clip_torch ftfy wcwidth importlib_metadata zipp
size=$(du -sk "$folder" | cut -f1)
echo "$((size / 1024)) MiB in $folder"
[ "$size" -le $((48 * 1024)) ] || { echo "more than 48 MiB: too much to travel with the repository"; exit 1; }
