"""Which engines of a co-simulation end a step at which time."""

from __future__ import annotations

import math

_REMEMBERED_TIMES = 4096
"""Answers are remembered when the engines all begin a step together again after at most so many of them."""


class Schedule:
    """When engines, which all begin their first step at 0, are due: have ended a step and begin the next one.

    Engines need not be multiples of each other. With steps of 10 and 15 somebody is due at 0, 10, 15, 20, 30, 40, ...

    Args:
        steps: the length of each engine's step in nanoseconds, in the order of the configuration; at least one.
    """

    def __init__(self, steps: list[int]) -> None:
        self._steps = steps
        period = math.lcm(*steps)
        self._period = period if sum(period // step for step in steps) <= _REMEMBERED_TIMES else 0
        self._remembered: dict[int, tuple[tuple[int, ...], int]] = {}

    def at(self, now: int) -> tuple[tuple[int, ...], int]:
        """Who is due at `now`, and how long it is until somebody is again.

        Returns:
            Indices into `steps`, in the order in which the engines are served: those that began their step earlier, the
            slower ones, come first, then as configured; at 0, where all begin, as configured. And nanoseconds.
        """
        if now == 0:
            return tuple(range(len(self._steps))), min(self._steps)
        if not self._period:
            return self._work_out(now)
        phase = now % self._period
        found = self._remembered.get(phase)
        if found is None:
            found = self._remembered[phase] = self._work_out(phase)
        return found

    def _work_out(self, now: int) -> tuple[tuple[int, ...], int]:
        steps = self._steps
        due = sorted((index for index, step in enumerate(steps) if now % step == 0), key=lambda index: -steps[index])
        return tuple(due), min(step - now % step for step in steps)
