"""How long a simulation has run: in simulated time, counted exactly, and in real time spent in `started`."""

from __future__ import annotations

import time

NANOSECONDS = 10**9
"""Nanoseconds in a second."""


class SimulationClock:
    """Simulated and real time of one simulation. The simulated time is written by the script's thread alone.

    Attributes:
        time_ns: the simulated time, in nanoseconds.
        timeout_ns: the simulated time that no `run_loop` passes, in nanoseconds, 0 for none.
    """

    __slots__ = ("_real_ns", "_since_ns", "time_ns", "timeout_ns")

    def __init__(self) -> None:
        self.time_ns = 0
        self.timeout_ns = 0
        self._real_ns = 0
        self._since_ns: int | None = None

    def start(self) -> None:
        """The simulation was started: real time counts."""
        self._since_ns = time.monotonic_ns()

    def pause(self) -> None:
        """The simulation is no longer started: real time stands still."""
        if self._since_ns is not None:
            self._real_ns += time.monotonic_ns() - self._since_ns
            self._since_ns = None

    def reset(self) -> None:
        """Back to the beginning."""
        self.time_ns = 0
        self._real_ns = 0
        self._since_ns = None

    @property
    def real_time(self) -> float:
        """Seconds spent in `started` since the beginning or the last reset."""
        since_ns = self._since_ns
        running_ns = time.monotonic_ns() - since_ns if since_ns is not None else 0
        return (self._real_ns + running_ns) / NANOSECONDS

    @property
    def simulation_time(self) -> float:
        """Simulated seconds."""
        return self.time_ns / NANOSECONDS

    @property
    def simulation_time_left(self) -> float:
        """Simulated seconds until the timeout, 0 without one."""
        return max(0, self.timeout_ns - self.time_ns) / NANOSECONDS if self.timeout_ns else 0.0
