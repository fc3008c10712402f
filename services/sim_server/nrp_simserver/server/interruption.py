"""Getting user code out of wherever it is: by a signal to the main thread, which Python code cannot overlook."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from nrp_simserver.server import core_wrapper
from nrp_simserver.server.gate import Gate, SimulationEnding, SimulationReset

GRACE_S = 0.5
"""How long a script has to come to its next step before it is interrupted where it is."""

CLEANING_UP_S = 3.0
"""How long a script that was told to end may spend in its `finally` and `except` blocks. A launcher kills after 5 s."""

IGNORED_TIMES = 100
"""A script that steps on after being told so many times to end catches what it is told, and will never end."""

AGAIN_S = 0.5
"""Between two looks at whether the user code has ended, and two signals: gRPC sees none that come every 0.2 s."""


class Interruption:
    """Ends user code in the main thread once the gate says that it is ending.

    User code that comes to the gate is told to end there; after `GRACE_S` it is told wherever it is. When being told
    does not end it, it never gets back control: `last_resort` is called on top of it. Made in the main thread.

    Args:
        gate: says whether and how to end.
        last_resort: ends the process.
    """

    def __init__(self, gate: Gate, last_resort: Callable[[], NoReturn]) -> None:
        self._gate = gate
        self._last_resort = last_resort
        self._main_thread = threading.get_ident()
        self._is_in_user_code = False
        self._is_told = False
        self._is_out_of_patience = False
        self._insisted_on: dict[type[SimulationEnding], object] = {}
        self._ended = threading.Event()
        self._ended.set()
        signal.signal(signal.SIGUSR1, self._interrupt)

    @contextmanager
    def of_user_code(self) -> Iterator[None]:
        """Let what runs in here be interrupted."""
        self._is_told = self._is_out_of_patience = False
        self._insisted_on.clear()
        self._ended.clear()
        self._is_in_user_code = True
        try:
            yield
        finally:
            self._is_in_user_code = False
            self._ended.set()

    def insist(self) -> None:
        """See to it that user code ends, after the gate was told to end it. Returns at once.

        A stop is asked for more than once, by signal and by command. One thread insists on it: the signals of two would
        come too often.
        """
        ending, claim = self._gate.ending, object()
        # In one call, as no lock may be waited for in a signal handler, from where this is called, too.
        if ending is None or self._ended.is_set() or self._insisted_on.setdefault(ending, claim) is not claim:
            return
        threading.Thread(target=self._insist, name="interruption", daemon=True).start()

    def _insist(self) -> None:
        pause = GRACE_S
        told_at: float | None = None
        while not self._ended.wait(pause):
            pause = AGAIN_S
            if told_at is None and (self._is_told or self._gate.refusals):
                told_at = time.monotonic()
            if told_at is not None:
                is_late = time.monotonic() - told_at > CLEANING_UP_S
                self._is_out_of_patience = is_late or self._gate.refusals > IGNORED_TIMES
            if told_at is None or self._is_out_of_patience:
                signal.pthread_kill(self._main_thread, signal.SIGUSR1)

    def _interrupt(self, _signal: int, frame: FrameType | None) -> None:
        ending = self._gate.ending
        if not self._is_in_user_code or ending is None:
            return
        if self._is_out_of_patience:
            self._is_in_user_code = False
            self._last_resort()
        if ending is SimulationReset and _is_stepping(frame):
            return  # a core interrupted within a step could not be reset
        self._is_told = True
        raise ending


def _is_stepping(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == core_wrapper.__file__:
            return True
        frame = frame.f_back
    return False
