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
    prompts = batch.prompts_per_iteration // world
    part = f'{batch.samples} samples per iteration ({prompts} prompts x {batch.group_size})'
    mine = (socket.gethostname(), f'{device}{name}', os.getpid())
    everyone = all_gather_object(mine) if world > 1 else [mine]
    hosts = len({host for host, _, _ in everyone})
    talk = f', {distributed.get_backend()}' if world > 1 else ''
    lines = [f'processes   {world} on {hosts} machine(s){talk}; each takes {part}']
    if every:
        lines += [
            f'  rank {rank}: host {host}, device {device}, pid {pid}, {part}'
            for rank, (host, device, pid) in enumerate(everyone)
        ]
    return lines
