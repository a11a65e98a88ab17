#!/usr/bin/env bash
# Everything to be known of a GPU in one session of ten minutes, the most valuable first:
#
#     OUT=benchmarks/results/h200 bash benchmarks/gpu_session.sh
#
# Correctness and ceilings, then times beside eager PyTorch and torch.compile, then the rest. Each
# part has a limit of its own and leaves OUT/PART/gpu_selfcheck.jsonl whatever fails; OUT/all.jsonl
# has all rows. Needs python3 (or PYTHON) with torch, triton and numpy. Wheels in build/gpu-wheels,
# such as msgspec and platformdirs, are put beside them for a machine without a network.
set -u
cd "$(dirname "$0")/.."
OUT=${OUT:-benchmarks/results/gpu} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
export TRITON_CACHE_DIR=$temporary/triton TORCHINDUCTOR_CACHE_DIR=$temporary/inductor
export R2RT_CACHE=$temporary/r2rt TORCHINDUCTOR_COMPILE_THREADS=2
if compgen -G "build/gpu-wheels/*.whl" >/dev/null; then
  $PYTHON -m pip install -q --no-index --no-deps --target "$temporary/site" build/gpu-wheels/*.whl
  export PYTHONPATH=$temporary/site${PYTHONPATH:+:$PYTHONPATH}
fi

# part NAME SECONDS STEP ...
part() {
  local name=$1 seconds=$2
  shift 2
  echo "== $name, at most $seconds s"
  timeout -k 5 $((seconds + 25)) "$PYTHON" benchmarks/gpu_selfcheck.py --limit "$seconds" \
    --out "$OUT/$name" --media "$temporary/media" "$@"
  cat "$OUT"/*/gpu_selfcheck.jsonl >"$OUT/all.jsonl" 2>/dev/null
}

part correct 170 environment block launches pool small
part times 180 compile times
part rest 150 sanitized training encoder bundle graphs
