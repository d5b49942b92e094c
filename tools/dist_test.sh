#!/usr/bin/env bash
# Test a checkpoint with one process per GPU; the results are those of one process.
#
#     tools/dist_test.sh CONFIG GPUS [CHECKPOINT] [arguments of tools/test.py]
#
# NNODES, NODE_RANK, MASTER_ADDR, PORT and PYTHON are those of tools/dist_train.sh.
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" test "$@"
