#!/usr/bin/env bash
# Everything a machine with a GPU should show, in one call of less than ten minutes: benchmarks/gpu.sh [FOLDER]
#
# Results go to FOLDER, else to $OUT, else to benchmarks/results: log.txt and a JSON file for each table. A part that
# fails or takes too long is said in the log and does not keep the others from running; the exit status is then 1.
# GPU_SH_DRY=1 tries the script at tiny sizes, also without a GPU; PYTHON names the interpreter (default: python3).
#
# The machine needs PyTorch 2.11 or later with CUDA, transformers, accelerate, tokenizers, tiktoken, safetensors, pytest,
# pytest-timeout, hypothesis and matplotlib. What else gptworks imports can come along as wheels in the folder .whl,
# which is installed beside, for this call only. Where there is a network (for Python 3.12 on x86-64):
#
#   python3 -m pip download --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
#     --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
#     -d .whl cyclopts docstring-parser rich-rst tomli-w zstandard
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

part() { # NAME SECONDS COMMAND...: run it, but no longer than that or than what is left
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

everything() { # what matters most comes first: a machine slower than thought loses the end
    local failed=()
    command -v nvidia-smi >/dev/null && nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
    "$python" -c "import torch, transformers as t; print('torch', torch.__version__, 'transformers', t.__version__)"
    part tests 100 "$python" -m pytest -o addopts= -q -m gpu -p no:cacheprovider "${tests[@]}" tests
    part "train $small" 170 "${train[@]}" --name train-small --sizes "$small" --compile "$both"
    part kernels 60 "$python" benchmarks/kernels.py --out "$out" --size "$small" "${fused[@]}"
    part generate 150 "$python" benchmarks/generate.py --out "$out" "${quick[@]}" "${texts[@]}"
    part "train $xl" 150 "${train[@]}" --name train-xl --sizes "$xl" --compile "$on" --contenders gptworks
    part "train $medium" 120 "${train[@]}" --name train-medium --sizes "$medium" --compile "$on" \
        --contenders gptworks transformers
    if ((${#failed[@]})); then
        printf 'did not come through:%s\n' "$(printf ' [%s]' "${failed[@]}")"
        return 1
    fi
    echo "all parts came through in $SECONDS s"
}
everything 2>&1 | tee "$out/log.txt"
exit "${PIPESTATUS[0]}"
