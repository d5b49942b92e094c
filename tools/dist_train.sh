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
exec "$(dirname "${BASH_SOURCE[0]}")/launch.sh" train "$@"
