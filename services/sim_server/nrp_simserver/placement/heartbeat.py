"""A sign of life of a launcher, for jobs on other machines: a file that it writes again every few seconds.

Clocks of machines differ, so nobody looks at the time of a file: it counts whether it has changed.
"""

from __future__ import annotations

import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

BEAT_S: Final = 5.0
"""Between two beats."""


class Heartbeat:
    """The launcher's end.

    Args:
        file: that is written.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._due_at = 0.0

    def beat(self) -> None:
        """Show that this launcher lives, when it is time to. A file system that is away is not told."""
        if time.monotonic() >= self._due_at:
            self._due_at = time.monotonic() + BEAT_S
            with suppress(OSError):
                self._file.write_text(uuid.uuid4().hex)


class HeartbeatWatch:
    """A job's end.

    Args:
        file: that the launcher writes.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seen: bytes | None = None
        self._changed_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """For how many seconds nothing has changed, as far as it was looked."""
        try:
            seen = self._file.read_bytes()
        except OSError:  # it is not there, or the file system is not
            seen = self._seen or b""
        if seen != self._seen:
            self._seen, self._changed_at = seen, time.monotonic()
        return time.monotonic() - self._changed_at
