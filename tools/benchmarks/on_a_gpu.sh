#!/usr/bin/env bash
# Everything that only a GPU can show, in about ten minutes on one of 80 GB: tests, and the figures that docs/benchmarks lacks.
#
#     tools/benchmarks/on_a_gpu.sh FOLDER      # for the logs and figures
#
# Nothing is downloaded: models of full size have random weights.
set -uo pipefail
out=$(mkdir -p "${1:?name a folder for the results}" && cd "$1" && pwd)
cd "$(dirname "$0")/../.."
failed=()

step() { # NAME SECONDS COMMAND...: its output to NAME.log and here; one that fails or takes too long stops no other
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    timeout "$limit" "$@" 2>&1 | tee "$out/$name.log" || failed+=("$name")
}

nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader | tee "$out/machine.log"
one_prompt=(batch.prompts_per_iteration=1 batch.updates_per_iteration=1)
step structurer 60 python tools/benchmark.py structurer --device cuda --size large --out "$out/structurer.json"
step flux 180 python tools/benchmark.py loop configs/vipo_flux_hps_lora.py --random --iterations 1 \
    --out "$out/flux.json" --cfg-options "${one_prompt[@]}" batch.micro_batch_size=4
step wan 200 python tools/benchmark.py loop configs/vipo_wan_videoalign_lora.py --random --iterations 1 \
    --out "$out/wan.json" --cfg-options "${one_prompt[@]}"
step tests 180 python -m pytest -q -n 4 tests/gpu
step generators 120 python tools/benchmark.py generators --config configs/vipo_sd35_hps.py --init random \
    --samples 4 --steps 6 --repeats 2 --out "$out/generators.json"
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}" >&2; exit 1; }
echo "figures and logs lie in $out"
