"""How long a simulation has run: in simulated time, counted exactly, and in real time spent in `started`."""

from __future__ import annotations

import time
from collections.abc import Callable

NANOSECONDS = 10**9
"""Nanoseconds in a second."""

MOST_CAUGHT_UP_NS = NANOSECONDS // 2
"""What a slow step costs is made up for by the next ones, up to here. More is forgotten: after a script has slept for a
minute nobody wants to see the minute in fast motion."""


class SimulationClock:
    """Simulated and real time of one simulation. The simulated time is written by the script's thread alone.

    Args:
        now_ns: the real time, in nanoseconds since whenever; never goes back.

    Attributes:
        time_ns: the simulated time, in nanoseconds.
        timeout_ns: the simulated time that no `run_loop` passes, in nanoseconds, 0 for none.
        timestep_ns: of the smallest timestep, in nanoseconds, 0 while nobody knows.
    """

    __slots__ = (
        "_before_reset_ns",
        "_forgotten_ns",
        "_now_ns",
        "_run",
        "time_ns",
        "timeout_ns",
        "timestep_ns",
    )

    def __init__(self, now_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self.time_ns = 0
        self.timeout_ns = 0
        self.timestep_ns = 0
        self._now_ns = now_ns
        # Real time until it last stood still, and since when it counts again. In one, as other threads read it.
        self._run: tuple[int, int | None] = (0, None)
        self._forgotten_ns = 0
        self._before_reset_ns = 0

    def start(self) -> None:
        """The simulation was started: real time counts."""
        self._run = (self._real_ns(), self._now_ns())

    def pause(self) -> None:
        """The simulation is no longer started: real time stands still."""
        self._run = (self._real_ns(), None)

    def reset(self) -> None:
        """Back to the beginning."""
        self.time_ns = 0
        self._before_reset_ns += self._real_ns()
        self._run = (0, None)
        self._forgotten_ns = 0

    def rewind(self) -> None:
        """Simulated time alone is back at 0, while the simulation runs on."""
        self.time_ns = 0
        self._forgotten_ns = self._real_ns()

    def ahead(self, factor: float) -> float:
        """How much real time has to pass until simulated time is not ahead of it, in seconds; 0 or less when it is not.

        For the script's thread. When real time is ahead by more than `MOST_CAUGHT_UP_NS`, that is forgotten.

        Args:
            factor: the simulated time that goes with a real second, in seconds.
        """
        ahead_ns = self.time_ns / factor - (self._real_ns() - self._forgotten_ns)
        if ahead_ns < -MOST_CAUGHT_UP_NS:
            self._forgotten_ns -= int(ahead_ns)
        return ahead_ns / NANOSECONDS

    @property
    def real_time(self) -> float:
        """Seconds spent in `started` since the beginning or the last reset."""
        return self._real_ns() / NANOSECONDS

    @property
    def total_real_time(self) -> float:
        """The same, what was before resets included."""
        return (self._before_reset_ns + self._real_ns()) / NANOSECONDS

    @property
    def simulation_time(self) -> float:
        """Simulated seconds."""
        return self.time_ns / NANOSECONDS

    @property
    def steps(self) -> int:
        """How many of the smallest timesteps that is."""
        return self.time_ns // self.timestep_ns if self.timestep_ns else 0

    @property
    def simulation_time_left(self) -> float:
        """Simulated seconds until the timeout, 0 without one."""
        return max(0, self.timeout_ns - self.time_ns) / NANOSECONDS if self.timeout_ns else 0.0

    def _real_ns(self) -> int:
        counted_ns, since_ns = self._run
        return counted_ns if since_ns is None else counted_ns + self._now_ns() - since_ns
