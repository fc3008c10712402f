"""Simulation servers on the launcher's own machine, forked by spawners."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping

from nrp_simserver import processes
from nrp_simserver.placement.local.spawner_protocol import Prepare
from nrp_simserver.placement.local.spawners import Spawners
from nrp_simserver.placement.placement import Listener, ServerOrder
from nrp_simserver.resources.capacity import MEGABYTE, Room, available_cores, available_memory, default_capacity
from nrp_simserver.resources.cgroups import CgroupTree
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder


class LocalPlacement:
    """A `Placement` on this machine.

    Args:
        settings: the launcher's.
        cgroups: where simulations get one of their own, None where they get none.
        listener: is told what becomes of servers.
        all_told: called once it knows of all servers of earlier launchers.
        servers: the process ids of all simulation servers that there are.

    Raises:
        SettingsError: the interpreter for simulations cannot be used; says why.
    """

    def __init__(
        self,
        settings: LauncherSettings,
        cgroups: CgroupTree | None,
        listener: Listener,
        all_told: Callable[[], None],
        servers: Callable[[], set[int]],
    ) -> None:
        self._servers = servers
        cores, memory = available_cores(), available_memory()
        self.room = Room(
            places=settings.capacity or default_capacity(cores, memory),
            cores=settings.cores or cores,
            memory_mb=settings.memory_mb or memory // MEGABYTE,
        )
        preparation = Prepare(
            idle_servers=settings.idle_servers,
            bus=settings.bus_access_of_servers,
            credentials_follow=settings.keeps_credentials,
            orphaned_s=settings.orphaned_s,
            stop_grace_s=settings.stop_grace_s,
            cgroups=None if cgroups is None else cgroups.base,
        )
        self._spawners = Spawners(settings.spawners_directory, settings.python, preparation, listener, all_told)
        self.reserve = self._spawners.reserve
        self.dismiss = self._spawners.dismiss
        self.close = self._spawners.close
        self.leave = self._spawners.leave

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:  # noqa: ARG002  spawners know which they have
        """Find the spawners of earlier launchers, and have one that starts new servers."""
        self._spawners.start()

    def place(self, order: ServerOrder) -> None:
        """Have a server forked, or an idle one take the simulation. Waits for a spawner that is starting.

        Raises:
            SpawnerUnavailable: there is no spawner.
        """
        self._spawners.spawn(order.setup)

    def stop(self, incarnation: str) -> None:
        """Have a server end in order."""
        self._spawners.signal(incarnation, signal.SIGTERM)

    def kill(self, incarnation: str) -> None:
        """End a server."""
        self._spawners.signal(incarnation, signal.SIGKILL)

    def end_processes(
        self, incarnation: str, folder: SimulationFolder, server: int | None, spawner: int | None
    ) -> None:
        """End what a server left running: below its spawner, or anybody's children when that is gone, too."""
        if spawner is not None and server is not None:
            besides = self._servers() - {server}
            processes.end_all(lambda: processes.left_behind(spawner, server, incarnation, folder.path, besides=besides))
        if spawner is None or processes.has_ended(spawner):
            processes.end_all(lambda: processes.marked({incarnation}))

    def forget(self, incarnation: str) -> None:
        """Nothing: whoever used the folder has ended."""

    def server_pids(self) -> set[int]:
        """The process ids of idle servers."""
        return self._spawners.idle_pids
