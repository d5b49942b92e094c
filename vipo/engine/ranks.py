"""Which processes take part in a run, on which machines."""

from __future__ import annotations

import os
import socket

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.runner import Runner
from torch import distributed


def describe_processes(runner: Runner, every: bool = False) -> list[str]:
    """A summary in one line, nothing for a single process that nobody asked about; every rank has to call it.

    Args:
        every: followed by a line per rank: host, device, pid and its part of the work.
    """
    world = get_world_size()
    if world == 1 and not every:
        return []
    batch = runner.components.batch
    device = torch.device(runner.components.device)
    name = f' ({torch.cuda.get_device_name(device)})' if device.type == 'cuda' else ''
    mine = (socket.gethostname(), f'{device}{name}', os.getpid(), batch.samples)
    everyone = all_gather_object(mine) if world > 1 else [mine]
    hosts = len({host for host, *_ in everyone})
    shares = sorted({samples for *_, samples in everyone})
    share = str(shares[0]) if len(shares) == 1 else f'{shares[0]} to {shares[-1]}'
    work = f'{batch.prompts_per_iteration} prompts x {batch.group_size}'
    talk = f', {distributed.get_backend()}' if world > 1 else ''
    lines = [f'processes   {world} on {hosts} machine(s){talk}; each takes {share} samples of {work} per iteration']
    if every:
        lines += [
            f'  rank {rank}: host {host}, device {device}, pid {pid}, {samples} samples per iteration'
            for rank, (host, device, pid, samples) in enumerate(everyone)
        ]
    return lines
