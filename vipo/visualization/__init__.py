"""Galleries, map overlays and curves."""

from vipo.visualization.curves import reward_curve
from vipo.visualization.gallery import before_after
from vipo.visualization.overlay import map_overlays, to_pixels

__all__ = ['before_after', 'map_overlays', 'reward_curve', 'to_pixels']
