"""Keeps third-party progress bars and notices out of a run's output, where they would hide what matters."""

from __future__ import annotations


def quiet_third_parties() -> None:
    """Loading bars off; warnings stay."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
