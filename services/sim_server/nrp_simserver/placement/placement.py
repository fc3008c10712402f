"""How simulation servers are placed: what a launcher asks of whoever runs them, and what it is told in return.

`local` forks them on the launcher's own machine, `slurm` and `kubernetes` make each a job of a cluster (`batch`). The
launcher does the rest, wherever they run: it clones, watches, archives and speaks the final word.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from nrp_common.messages import Launch
from nrp_simserver.resources.capacity import Room
from nrp_simserver.resources.limits import Limit, Limited
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder


@dataclass(frozen=True)
class ServerOrder:
    """A simulation server that is to run.

    Attributes:
        setup: what it runs, and where its folder is, which is ready.
        launch: that it goes back to, with what its owner asks for.
        limits: that are in force for it. Those of time and disk are the launcher's to keep; those of memory, CPU time
            and processes the placement's, when `Listener.server_spawned` does not say which process it is.
    """

    setup: ServerSetup
    launch: Launch
    limits: Mapping[Limited, Limit]


@dataclass(frozen=True)
class QueuePlace:
    """That a server waits for a place to run at.

    Attributes:
        reason: why, in the words of whoever has it wait.
        position: how many wait for what it waits for and get it no later, itself included; None when that is not known.
        length: how many wait for that in all, likewise.
    """

    reason: str
    position: int | None = None
    length: int | None = None


class Listener(Protocol):
    """Who is told what becomes of servers. Called from any thread: must not take long."""

    def is_taken(self, incarnation: str) -> bool:
        """Whether a simulation has this incarnation, so that no other one may have it."""

    def server_found(self, incarnation: str) -> None:
        """The server of an earlier launcher is known: what becomes of it will be told."""

    def server_waits(self, incarnation: str, place: QueuePlace) -> None:
        """A simulation server waits for a place to run at. Told again as often as it is looked at."""

    def server_spawned(self, incarnation: str, pid: int | None = None, spawner: int | None = None) -> None:
        """A simulation server runs: as which process of this machine, and below which spawner, when it is on it."""

    def server_ended(self, incarnation: str, how: str, *, by_placement: bool = False) -> None:
        """A simulation server has ended, or could not be started.

        Args:
            incarnation: the server's.
            how: in a sentence; with its last words when `by_placement`.
            by_placement: whether it was its placement that had it end.
        """

    def spawner_ended(self, incarnation: str, how: str) -> None:
        """The spawner of a simulation server has ended, and the server with it, if it had started it at all."""


class Placement(Protocol):
    """Runs a launcher's simulation servers. Usable from several threads.

    Its `Listener` hears of each server that was ordered, until its end, whatever ends it. A server whose placement
    cannot be asked for a while has not ended.
    """

    @property
    def room(self) -> Room:
        """What there is for simulations."""

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:
        """Begin, in the background: find the servers of earlier launchers first.

        The listener is told of each that is found (`server_found`, `server_waits` or `server_spawned`), then `all_told`
        (an argument of the constructor) is called. Of all others the launcher itself finds out how they ended.

        Args:
            leftovers: the folders of the simulations of earlier launchers, by the incarnations of their servers.
        """

    def reserve(self) -> str:
        """The incarnation for a new simulation server."""

    def dismiss(self, incarnation: str) -> None:
        """Expect no order for an incarnation that was reserved."""

    def place(self, order: ServerOrder) -> None:
        """Have a simulation server run: now, or when there is a place for it.

        Raises:
            NRPError: it is not going to run.
            OSError: its folder cannot be written to.
        """

    def stop(self, incarnation: str) -> None:
        """Have a server end in order, or not begin at all. Nothing happens when it has ended."""

    def kill(self, incarnation: str) -> None:
        """Have a server end, and all that it started. Nothing happens when it has ended."""

    def end_processes(
        self, incarnation: str, folder: SimulationFolder, server: int | None, spawner: int | None
    ) -> None:
        """End what a server that has ended left running.

        Args:
            incarnation: the server's.
            folder: the simulation's.
            server: the process id that it had on this machine, None when that is not known.
            spawner: the process id of its spawner, likewise.
        """

    def forget(self, incarnation: str) -> None:
        """Expect nothing of a server that has ended any more. Waits until nobody uses its folder, which is deleted."""

    def server_pids(self) -> set[int]:
        """The process ids of the servers on this machine that have no simulation yet."""

    def close(self) -> None:
        """End all servers."""

    def leave(self) -> None:
        """Leave all servers to the next launcher."""
