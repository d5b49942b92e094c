"""How the ranks share the work of training: one line of a config, ``strategy=dict(type=...)``."""

from vipo.engine.strategies.base import Strategy
from vipo.engine.strategies.ddp import DDP
from vipo.engine.strategies.fsdp2 import FSDP2

__all__ = ['DDP', 'FSDP2', 'Strategy']
