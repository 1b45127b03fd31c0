#!/usr/bin/env bash
# Run all tests and benchmarks that need a GPU, in less than ten minutes: benchmarks/gpu.sh [FOLDER]
#
# Results go to FOLDER, or else to $OUT, or else to benchmarks/results: log.txt, and one JSON file per table. If a part
# fails or takes too long, the log says so, the other parts still run, and the exit status is 1.
# GPU_SH_DRY=1 runs everything at tiny sizes, even without a GPU. PYTHON selects the interpreter (default: python3).
#
# The machine needs CUDA and these packages with their dependencies (torch 2.11 or later):
#
#   torch transformers accelerate tokenizers tiktoken safetensors pytest pytest-timeout
#
# All other imported packages can be provided as wheels in the folder .whl, which are installed for this call only. A
# test compares both lists with the imports. To download the wheels (for Python 3.12 on x86-64):
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
#     -c constraints.txt -d .whl attrs cyclopts docstring-parser rich-rst tomli-w zstandard
set -uo pipefail
cd "$(dirname "$0")/.."
out=${1:-${OUT:-benchmarks/results}}
python=${PYTHON:-python3}
dry=${GPU_SH_DRY:-}
end=$((SECONDS + 570))
mkdir -p "$out"

site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
if compgen -G ".whl/*.whl" >/dev/null; then
    "$python" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$site" .whl/*.whl || exit 1
fi
export PYTHONPATH="src:.:$site${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

part() { # NAME SECONDS COMMAND...: run the command for at most SECONDS or the time that is left
    local name=$1 limit=$2 left=$((end - SECONDS)) start=$SECONDS status
    shift 2
    echo "== $name"
    ((left < limit)) && limit=$left
    if ((limit < 10)); then
        echo "-- $name: no time left"
        failed+=("$name")
        return
    fi
    timeout --kill-after=5 "$limit" "$@"
    status=$?
    ((status == 0)) || failed+=("$name")
    echo "-- $name: status $status, $((SECONDS - start)) s"
}

if [[ $dry ]]; then
    small=tiny medium=tiny xl=tiny both=off on=off
    fused=()
    quick=(--seconds 0.1 --rounds 1)
    tests=(--collect-only)
    texts=(--dtypes fp32 --n-layer 1 --vocab-size 300 --samples 1 --tokens 4)
else
    small=gpt2 medium=gpt2-medium xl=gpt2-xl both=both on=on
    fused=(--compile)
    quick=(--seconds 4 --rounds 1)
    tests=()
    texts=(--dtypes bf16 --static)
fi
train=("$python" benchmarks/train.py --out "$out" "${quick[@]}")

everything() { # the most important parts come first, because a slow machine may not reach the last ones
    local failed=()
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$python" -c "import torch, transformers as t; print('torch', torch.__version__, 'transformers', t.__version__)"
    part tests 100 "$python" -m pytest -o addopts= -q -m gpu -p no:cacheprovider "${tests[@]}" tests/gpu
    part "train $small" 170 "${train[@]}" --name train-small --sizes "$small" --compile "$both"
    part kernels 60 "$python" benchmarks/kernels.py --out "$out" --size "$small" "${fused[@]}"
    part generate 150 "$python" benchmarks/generate.py --out "$out" "${quick[@]}" "${texts[@]}"
    part "train $xl" 150 "${train[@]}" --name train-xl --sizes "$xl" --compile "$on" --contenders gptworks
    part "train $medium" 120 "${train[@]}" --name train-medium --sizes "$medium" --compile "$on" \
        --contenders gptworks transformers
    if ((${#failed[@]})); then
        printf 'failed:%s\n' "$(printf ' [%s]' "${failed[@]}")"
        return 1
    fi
    echo "all parts passed in $SECONDS s"
}
everything 2>&1 | tee "$out/log.txt"
exit "${PIPESTATUS[0]}"
