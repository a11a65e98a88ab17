#!/bin/sh
# Install a built wheel into a new virtual environment: install.sh WHEEL VENV [cpu|gpu].
# Both images run this in their build stage; it needs no root and no HOME.
set -eu
wheel=$1
venv=$2
kind=${3:-cpu}
constraints=$(dirname "$0")/../constraints.txt

python3 -m venv "$venv"
pip="$venv/bin/python -m pip --disable-pip-version-check --no-cache-dir --quiet"
$pip install --no-compile -c "$constraints" "${wheel}[serve]"
if [ "$kind" = gpu ]; then
    # onnxruntime and onnxruntime-gpu are one module, and the runtime asks for the first.
    $pip uninstall --yes onnxruntime onnxruntime-gpu
    $pip install --no-compile -c "$constraints" "onnxruntime-gpu[cuda,cudnn]>=1.24"
fi
$pip uninstall --yes pip setuptools 2>/dev/null || true
find "$venv" -type d -name __pycache__ -prune -exec rm -rf {} +
