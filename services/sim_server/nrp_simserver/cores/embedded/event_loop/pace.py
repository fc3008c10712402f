"""The pace of a loop in real time: each step takes as long as it stands for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from nrp_simserver.cores import Rest

logger = logging.getLogger(__name__)

NANOSECONDS = 10**9
"""Nanoseconds in a second."""

WARNED_EVERY_NS = NANOSECONDS
"""A loop that is too slow is late in every step, and says so once a second."""


class Pace:
    """Makes steps end on time. Their ends lie on one grid, so that they do not drift.

    A step that is late is made up for by less rest after the next ones. A delay of a whole step or more, be it a pause
    or too much work, is not made up for: the grid begins anew.

    Args:
        timestep_ns: how long a step takes.
        tolerated_lag_ns: falling behind real time by more is reported in the log.
        rest: lets time pass.
        now: a clock that never goes back, in nanoseconds.
    """

    def __init__(
        self, timestep_ns: int, tolerated_lag_ns: int, rest: Rest, now: Callable[[], int] = time.monotonic_ns
    ) -> None:
        self._timestep_ns = timestep_ns
        self._tolerated_lag_ns = tolerated_lag_ns
        self._rest = rest
        self._now = now
        self._end_ns = 0
        self._given_up_ns = 0  # since a step was on time
        self._warned_at_ns: int | None = None

    def begin_step(self) -> None:
        """A step begins: where the one before it ended, or on a new grid after a pause."""
        now = self._now()
        if not 0 <= now - self._end_ns < self._timestep_ns:
            self._end_ns = now
        self._end_ns += self._timestep_ns

    def end_step(self) -> None:
        """A step has done its work: rest until its time is over."""
        now = self._now()
        delay_ns = now - self._end_ns
        if delay_ns < 0:
            self._given_up_ns = 0
            self._rest(-delay_ns / NANOSECONDS)
            return
        if self._given_up_ns + delay_ns > self._tolerated_lag_ns:
            self._warn(now, self._given_up_ns + delay_ns)
        if delay_ns >= self._timestep_ns:
            self._given_up_ns += delay_ns
            self._end_ns = now

    def _warn(self, now: int, lag_ns: int) -> None:
        if self._warned_at_ns is None or now - self._warned_at_ns >= WARNED_EVERY_NS:
            self._warned_at_ns = now
            logger.warning(
                "the event loop is %.4g ms behind real time: its steps of %g ms take longer than that",
                lag_ns / 1e6,
                self._timestep_ns / 1e6,
            )
