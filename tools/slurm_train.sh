#!/usr/bin/env bash
# Train a config on a Slurm cluster with one task per GPU.
#
#     tools/slurm_train.sh PARTITION JOB CONFIG WORK_DIR [arguments of tools/train.py]
#
# GPUS (8) counts all tasks, GPUS_PER_NODE (8, at most GPUS) those of a node, CPUS_PER_TASK (5) the cores of each.
# PORT is drawn at random unless it is set. SRUN_ARGS are further words for srun, split at spaces.
# On nodes without GPUs set GPUS_PER_NODE to the tasks of a node and GRES to nothing (GRES=).
set -euo pipefail

if [ "$#" -lt 4 ]; then
    echo "usage: [GPUS=n GPUS_PER_NODE=n] $0 PARTITION JOB CONFIG WORK_DIR [arguments of tools/train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB=$2
CONFIG=$3
WORK_DIR=$4
shift 4
if [ ! -f "$CONFIG" ]; then
    echo "error: config file '$CONFIG' does not exist" >&2
    exit 2
fi

GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}
CPUS_PER_TASK=${CPUS_PER_TASK:-5}
if [ $((GPUS % GPUS_PER_NODE)) -ne 0 ]; then
    echo "error: GPUS=$GPUS is no multiple of GPUS_PER_NODE=$GPUS_PER_NODE" >&2
    exit 2
fi
GRES=${GRES-gpu:$GPUS_PER_NODE}
read -r -a MORE <<< "${SRUN_ARGS:-}"
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"
# Two jobs of one user on one node must not meet at the same port.
export MASTER_PORT=${PORT:-$((20000 + RANDOM % 20000))}

exec srun --partition="$PARTITION" --job-name="$JOB" ${GRES:+--gres="$GRES"} \
    --ntasks="$GPUS" --ntasks-per-node="$GPUS_PER_NODE" --cpus-per-task="$CPUS_PER_TASK" \
    --kill-on-bad-exit=1 ${MORE[@]+"${MORE[@]}"} \
    "${PYTHON:-python}" -u "$HERE/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "$@"
