"""Idle simulations: paused or completed, with nobody who asks anything of them. They are warned, and then stopped."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Final

from nrp_common.bus import Bus
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import IDLE, IdleWarning, Progress, TaskDone
from nrp_simserver.simulation_folder import Journal

WARNED_BEFORE_S: Final = 60.0
"""How long before its end an idle simulation is warned; half of its time when that is less."""

WARNED_AGAIN_S: Final = 5.0
"""Between two warnings, for who comes to the bus meanwhile."""

IDLE_STATES: Final = {SimulationState.PAUSED, SimulationState.COMPLETED}


class IdleCulling:
    """Watches over one simulation. What it does not see is whether its owner looks at it: only commands count.

    Args:
        timeout_s: after how long without a command an idle simulation is to be stopped, in seconds; 0 for never.
        bus: carries the warnings.
        status_topic: the simulation's.
        now: the time in seconds since whenever; never goes back.
    """

    def __init__(
        self, timeout_s: float, bus: Bus, status_topic: str, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._timeout_s = timeout_s
        self._bus = bus
        self._status_topic = status_topic
        self._now = now
        self._lock = threading.Lock()  # guards all below
        self._since = now()
        self._seq = 0
        self._stops_at: float | None = None  # once it is warned
        self._warned_at = -math.inf

    def stir(self) -> None:
        """Somebody asked something of the simulation: its time begins anew. From any thread."""
        with self._lock:
            self._stir()

    def verdict(self, journal: Journal) -> str | None:
        """Why the simulation is to be stopped, None when it is not; warns it when it soon will be.

        Args:
            journal: the simulation's, as it is now.
        """
        if not self._timeout_s:
            return None
        with self._lock:
            if journal.seq != self._seq or journal.state not in IDLE_STATES:
                self._seq = journal.seq
                self._stir()
                return None
            now, patience_s = self._now(), min(WARNED_BEFORE_S, self._timeout_s / 2)
            if self._stops_at is None and now - self._since >= self._timeout_s - patience_s:
                self._stops_at = now + patience_s
            if self._stops_at is not None and now >= self._stops_at:
                self._take_warning_back()
                return (
                    f"The simulation was {journal.state} for {self._timeout_s:g} s without any command (limit"
                    " NRP_IDLE_TIMEOUT_S)"
                )
            if self._stops_at is not None and now - self._warned_at >= WARNED_AGAIN_S:
                self._warned_at = now
                self._warn(self._stops_at - now)
            return None

    def _stir(self) -> None:
        self._since = self._now()
        self._take_warning_back()

    def _warn(self, left_s: float) -> None:
        subtask = f"It is stopped in {left_s:.0f} s, unless it gets a command"
        warning = IdleWarning(subtask=subtask, stops_at=round(time.time() + left_s, 1))
        self._bus.publish(self._status_topic, Progress(progress=warning))

    def _take_warning_back(self) -> None:
        if self._stops_at is not None:
            self._stops_at = None
            self._warned_at = -math.inf
            self._bus.publish(self._status_topic, Progress(progress=TaskDone(task=IDLE)))
