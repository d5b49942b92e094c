"""Stages of ``tools/make_tiny.py``: the training of the embedded models."""
