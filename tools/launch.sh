#!/usr/bin/env bash
# What tools/dist_train.sh and tools/dist_test.sh share: starts tools/TOOL.py once per GPU through torchrun.
#
#     tools/launch.sh TOOL CONFIG GPUS [arguments of the tool]
set -euo pipefail

TOOL=$1
shift
if [ "$#" -lt 2 ]; then
    echo "usage: [NNODES=n NODE_RANK=i MASTER_ADDR=host PORT=port] tools/dist_$TOOL.sh CONFIG GPUS [arguments of tools/$TOOL.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2
if ! [[ "$GPUS" =~ ^[1-9][0-9]*$ ]]; then
    echo "error: GPUS must be a positive number, got '$GPUS'; the order is tools/dist_$TOOL.sh CONFIG GPUS" >&2
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
    "$HERE/$TOOL.py" "$CONFIG" "$@" --launcher pytorch
