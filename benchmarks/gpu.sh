#!/usr/bin/env bash
# One GPU (made for an H100 or H200), at most 8 minutes, nothing to download: LLaVA-1.5-7B and LLaVA-NeXT in bfloat16 with
# random weights, all methods at 192, 128 and 64 tokens, batch 8 and 1; VTW's search; every method against the CPU, the
# golden files of the released codes on the GPU; FlashAttention where the package is there. The most important parts come
# first, and the file is written after each: data/benchmarks/DEVICE.json, or --out FILE.
#
# Where .venv is not, python3 has to have torch, transformers, numpy, pillow, scipy and pytest; what it may lack of
# benchmarks/wheels.txt is taken from the wheels in benchmarks/wheels (git ignores them). For a machine without a network,
# fill that folder where there is one, and take it along (14 MB, for Python 3.12):
#   benchmarks/gpu.sh --wheels
#   benchmarks/gpu.sh --smoke --out /tmp/x.json   tiny, on any device: does every line run?
set -euo pipefail
cd "$(dirname "$0")/.."
wheels=benchmarks/wheels
if [ "${1:-}" = --wheels ]; then
    python3 -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux2014_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 --dest "$wheels" -r benchmarks/wheels.txt
    python3 -m pip wheel --quiet --no-deps --wheel-dir "$wheels" antlr4-python3-runtime==4.9.3 # has no wheel on PyPI
    du -sh "$wheels"
    exit
fi
[ -d .venv/bin ] && PATH=$PWD/.venv/bin:$PATH
python=$(command -v python3 || command -v python)
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
enough='from importlib.metadata import version; import hydra, pytest_socket
assert tuple(map(int, version("transformers").split(".")[:2])) >= (5, 20)'
if compgen -G "$wheels/*.whl" >/dev/null && ! "$python" -c "$enough" 2>/dev/null; then
    taken=.thinsight/wheels # a wheel is an archive: no pip is needed to take it apart
    rm -rf "$taken" && mkdir -p "$taken"
    for wheel in "$wheels"/*.whl; do "$python" -m zipfile -e "$wheel" "$taken"; done
    PYTHONPATH=$taken:$PYTHONPATH
fi
limit=475
[[ " $* " == *" --smoke "* ]] && limit=1800
timeout "$limit" "$python" -m thinsight.costs.benchmark gpu "$@" && status=0 || status=$?
[ "$status" -ne 124 ] || { echo "the time is over: what was done by then is in the file" >&2; exit 0; }
exit "$status"
