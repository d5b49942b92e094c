#!/usr/bin/env bash
# Everything that only a GPU can show, in about ten minutes on one of 80 GB: tests, and the figures that docs/benchmarks lacks.
#
#     tools/benchmarks/on_a_gpu.sh FOLDER      # for six files: the log and the figures
#     PYTHON (python)                          # names the interpreter
#
# Nothing is downloaded: models of full size have random weights. What matters most comes first, and what a step found
# is in FOLDER when it ends, so that a machine that is taken away leaves the rest.
set -uo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
python=${PYTHON:-python}
failed=()

step() { # NAME SECONDS ARGUMENTS...: of Python; one that fails or takes too long stops no other
    local name=$1 limit=$2
    shift 2
    { echo "== $name: $*" && timeout "$limit" "$python" "$@"; } 2>&1 | tee -a "$out/log.txt" || failed+=("$name")
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/machine.txt"
step versions 60 -c 'import torch, diffusers, transformers, vipo; print(*map(str, (
    "torch", torch.__version__, "diffusers", diffusers.__version__, "transformers", transformers.__version__)))'
[ ${#failed[@]} = 0 ] || { echo "$python cannot import what ViPO needs" >&2; exit 1; }
one_prompt=(batch.prompts_per_iteration=1 batch.updates_per_iteration=1)
step structurer 60 tools/benchmark.py structurer --device cuda --size large --frames-per-batch 64 --out "$out/structurer.json"
step flux 180 tools/benchmark.py loop configs/vipo_flux_hps_lora.py --random --iterations 1 \
    --out "$out/flux.json" --cfg-options "${one_prompt[@]}" batch.micro_batch_size=4
step wan 200 tools/benchmark.py loop configs/vipo_wan_videoalign_lora.py --random --iterations 1 \
    --out "$out/wan.json" --cfg-options "${one_prompt[@]}"
step tests 180 -m pytest -q -n 4 tests/gpu
step generators 120 tools/benchmark.py generators --config configs/vipo_sd35_hps.py --init random \
    --samples 4 --steps 6 --repeats 2 --out "$out/generators.json"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
echo "figures and the log lie in $out"
