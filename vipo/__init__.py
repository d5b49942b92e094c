"""ViPO: visual preference policy optimization for image and video generators."""

__version__ = '0.1.0'
