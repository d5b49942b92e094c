"""Keeps third-party progress bars and notices out of a run's output, where they would hide what matters."""

from __future__ import annotations

import logging


def quiet_third_parties() -> None:
    """Loading bars off; warnings stay."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


class StaleNotices(logging.Filter):
    """Drops MMEngine's notices about its own deprecated aliases, which it triggers itself at every checkpoint."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(('"FileClient" will be', '"HardDiskBackend" is the alias'))
