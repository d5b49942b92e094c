"""What rewards in other processes share."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vipo.rewards.base import Reward

if TYPE_CHECKING:
    from vipo.rewards.stand_in import StandIn

#: An address that stands for a local server with a score of no meaning, for rehearsals.
STAND_IN = 'vipo://stand-in'


class ServiceReward(Reward):
    """A reward whose option ``url`` says where its model is; :data:`STAND_IN` starts a local server in its place."""

    #: Said in the table of a rehearsal.
    not_rehearsed = 'a local stand-in answered in place of the server: its scores mean nothing'

    @classmethod
    def model_bytes(cls, options: dict[str, Any]) -> int:
        """For a plan: nothing of it is in this process."""
        return 0

    @classmethod
    def rehearsal(cls, options: dict[str, Any], folder: Path) -> dict[str, Any]:
        """What changes in these options for a rehearsal: no server has to be there, see :attr:`not_rehearsed`."""
        return {'url': STAND_IN, 'key_variable': None}

    def keep(self, server: StandIn) -> str:
        """The address of a local server, which stops when this reward is no longer there."""
        weakref.finalize(self, server.stop).atexit = False
        return server.url
