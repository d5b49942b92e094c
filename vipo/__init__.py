"""ViPO: visual preference policy optimization for image and video generators."""

from vipo.first_import import import_yapf

__version__ = '0.1.0'

import_yapf()  # before anything imports MMEngine, which imports it
