#!/usr/bin/env bash
# All methods at 192, 128 and 64 of 576 visual tokens on one CPU thread, prefill alone, minutes. Every three methods are
# interleaved with a plain model of their own, since a CPU drifts.
# Run it with nothing beside it: `benchmarks/cpu.sh` writes data/benchmarks/DEVICE.json, which the page on efficiency reads.
#   benchmarks/cpu.sh --rounds 3                  fewer rounds
#   benchmarks/cpu.sh --shape 16x1024+12x512      a model of 300M parameters in place of the one of 60M
#   benchmarks/cpu.sh --smoke --out /tmp/x.json   tiny: does every line run?
set -euo pipefail
cd "$(dirname "$0")/.."
[ -d .venv/bin ] && PATH=$PWD/.venv/bin:$PATH
export PYTHONPATH=src${PYTHONPATH:+:$PYTHONPATH} OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
exec python -m thinsight.costs.benchmark cpu "$@"
