"""Being ended in order: SIGTERM does what Ctrl-C does."""

from __future__ import annotations

import signal
from types import FrameType


def end_on_sigterm() -> None:
    """Make SIGTERM raise KeyboardInterrupt in the main thread, so that everything is cleaned up on the way out."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
