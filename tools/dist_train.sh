#!/usr/bin/env bash
# Train a config with one process per GPU, on one machine or on several.
#
#     tools/dist_train.sh CONFIG GPUS [arguments of tools/train.py]
#
# GPUS counts the processes of this machine. On several machines start it on each, with
#     NNODES (1)               how many there are
#     NODE_RANK (0)            the number of this one
#     MASTER_ADDR (127.0.0.1)  the address of number 0
#     PORT (29500)             a free port there
#     GRACE (30)               seconds from SIGTERM or SIGUSR1 until processes are killed; an iteration has to fit
# Without a GPU the processes talk over gloo and compute on the CPU. PYTHON (python) names the interpreter.
set -euo pipefail

if [ "$#" -lt 2 ]; then
    echo "usage: [NNODES=n NODE_RANK=i MASTER_ADDR=host PORT=port] $0 CONFIG GPUS [arguments of tools/train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
if ! [[ "$GPUS" =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS must be a positive number, got '$GPUS'; the order is $0 CONFIG GPUS" >&2
    exit 2
fi
if [ ! -f "$CONFIG" ]; then
    echo "error: config file '$CONFIG' does not exist" >&2
    exit 2
fi

NNODES=${NNODES:-1}
NODE_RANK=${NODE_RANK:-0}
PORT=${PORT:-29500}
MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
if [ "$NNODES" -gt 1 ] && [ "$MASTER_ADDR" = 127.0.0.1 ]; then
    echo "error: NNODES=$NNODES needs MASTER_ADDR, the address of node 0 as the other nodes see it" >&2
    exit 2
fi
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export PYTHONPATH="$HERE/..${PYTHONPATH:+:$PYTHONPATH}"
# Options of torchrun, by its own environment variables: a version that lacks one does not stumble over it.
export PET_SIGNALS_TO_HANDLE=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1
export PET_SHUTDOWN_TIMEOUT=${GRACE:-30}

echo "node $NODE_RANK of $NNODES, $GPUS process(es) here, meeting at $MASTER_ADDR:$PORT"
exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="$NNODES" --node-rank="$NODE_RANK" --nproc-per-node="$GPUS" \
    --master-addr="$MASTER_ADDR" --master-port="$PORT" --max-restarts=0 \
    "$HERE/train.py" "$CONFIG" --launcher pytorch "$@"
