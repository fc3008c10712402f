"""A surge of processes, noticed while there is still time: a fork bomb doubles what it has many times a second."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Final

from nrp_simserver.resources.process_table import tasks_of_the_machine

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1
"""Between two looks at how many processes and threads the machine has: the kernel counts them, a look takes 20 us."""

SURGE: Final = 50
"""So many more than at the last look are a surge."""


class SurgeWatch:
    """Looks ten times a second, in a thread of its own.

    Args:
        surged: called in that thread when the machine has many more processes and threads than a moment ago.
        count: tells how many there are.
    """

    def __init__(self, surged: Callable[[], None], count: Callable[[], int] = tasks_of_the_machine) -> None:
        self._surged = surged
        self._count = count
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name="surge watch", daemon=True)

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._closing.set()
        self._thread.join()

    def _work(self) -> None:
        before = self._count()
        while not self._closing.wait(LOOK_S):
            now = self._count()
            if now - before >= SURGE:
                try:
                    self._surged()
                except Exception:
                    log.exception("A surge of processes could not be looked into")
            before = now
