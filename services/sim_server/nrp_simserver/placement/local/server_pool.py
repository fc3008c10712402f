"""The idle servers of a spawner: which there are, and when the next one is due."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nrp_simserver.simulation_folder import BusAccess

PAUSE_S: Final = 0.04
"""After a launch, and between two idle servers: to start one takes as much work as a launch, and would delay it."""

YOUNG_S: Final = 5.0
"""An idle server that dies younger than this could not have run a simulation either."""

RETRY_DELAYS_S: Final = (1.0, 5.0, 30.0, 60.0)
"""After how many young deaths in a row the next idle server is started when."""


@dataclass(frozen=True)
class IdleServer:
    """A simulation server that waits for a simulation.

    Attributes:
        incarnation: the server's.
        pid: its process id.
        handover: the socket over which it is told what to run; it ends when that is closed.
        bus: how it got onto the bus, or will.
        started_at: on the clock of `time.monotonic`, in seconds.
        log_size: of the spawner's log when it was started, in bytes.
    """

    incarnation: str
    pid: int
    handover: socket.socket
    bus: BusAccess
    started_at: float
    log_size: int


class ServerPool:
    """Keeps account of idle servers; whoever owns it starts and ends their processes.

    Args:
        clock: seconds that only increase.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._size = 0
        self._bus: BusAccess | None = None
        self._idle: dict[str, IdleServer] = {}
        self._young_deaths = 0
        self._not_before = 0.0

    @property
    def idle(self) -> list[IdleServer]:
        """All that are there, the oldest first."""
        return list(self._idle.values())

    @property
    def is_failing(self) -> bool:
        """Whether the idle server that died last died young."""
        return self._young_deaths > 0

    def prepare(self, size: int, bus: BusAccess | None) -> list[IdleServer]:
        """Keep `size` servers that got onto the bus like this. Returns those that are to be dismissed."""
        if bus != self._bus:
            self._young_deaths, self._not_before = 0, 0.0
        self._size, self._bus = size, bus
        stale = [each for each in self.idle if each.bus != bus]
        fitting = [each for each in self.idle if each.bus == bus]
        superfluous = stale + fitting[size:]
        for each in superfluous:
            del self._idle[each.incarnation]
        return superfluous

    def due_in(self) -> float | None:
        """In how many seconds the next server is to be started, None when there are enough."""
        if len(self._idle) >= self._size:
            return None
        return max(0.0, self._not_before - self._clock())

    def add(self, server: IdleServer) -> None:
        """A server was started."""
        self._idle[server.incarnation] = server
        self.pause()

    def pause(self) -> None:
        """Start no server for a while."""
        self._not_before = max(self._not_before, self._clock() + PAUSE_S)

    def take(self, incarnation: str) -> IdleServer | None:
        """The server of this incarnation, for a simulation or to be dismissed; None when it is not there."""
        was_full = self.due_in() is None
        server = self._idle.pop(incarnation, None)
        if server is not None:
            self._young_deaths = 0
            if was_full:  # in a row of launches the first one's pause is the pause of all
                self.pause()
        return server

    def bury(self, pid: int) -> IdleServer | None:
        """A process has ended: the idle server that it was, None when it was none.

        One that died young puts the next one off.
        """
        dead = next((each for each in self.idle if each.pid == pid), None)
        if dead is None:
            return None
        del self._idle[dead.incarnation]
        if self._clock() - dead.started_at < YOUNG_S:
            delay = RETRY_DELAYS_S[min(self._young_deaths, len(RETRY_DELAYS_S) - 1)]
            self._young_deaths += 1
            self._not_before = self._clock() + delay
        else:
            self._young_deaths = 0
        return dead
