"""Waiting for a condition, never for a time."""

from __future__ import annotations

import time
from collections.abc import Callable

LONGEST_PAUSE_S = 0.5


def wait_until(condition: Callable[[], object], timeout: float = 30.0) -> None:
    """Return when `condition()` is true; fail after `timeout` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        asked_at = time.monotonic()
        if condition():
            return
        answered_at = time.monotonic()
        assert answered_at < deadline, f"not within {timeout:g} s"
        # What is costly to ask is asked less often: those that are waited for need the processor, too.
        time.sleep(min(max(0.01, 2 * (answered_at - asked_at)), LONGEST_PAUSE_S))
