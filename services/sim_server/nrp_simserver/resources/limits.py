"""What a simulation may use: the limits of its launcher, and stricter ones that its launch asks for.

A simulation that uses more is failed, with the limit's name. What it uses is looked at once a second. Memory,
processes and CPU time are those of all its processes together: as the kernel accounts them for its cgroup, where the
launcher may use cgroups, else added up over its processes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Limits
from nrp_simserver.resources.capacity import MEGABYTE
from nrp_simserver.resources.cgroups import CgroupTree, most_tasks
from nrp_simserver.resources.disk_use import DISK_MEGABYTE, DiskUse
from nrp_simserver.resources.process_table import CpuAccount, ProcessTable, memory_of, tasks_of_the_machine
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import Journal, SimulationFolder

OTHERS_TASKS: Final = 4096
"""How many processes and threads everything else of a user may come to, before a simulation is kept from having more
that did nothing wrong."""


class Limited(StrEnum):
    """What there are limits for, as `nrp_common.messages.Limits` calls it."""

    REAL_TIME = "real_time"
    SIMULATED_TIME = "simulated_time"
    MEMORY = "memory_mb"
    CPU_TIME = "cpu_time"
    PROCESSES = "processes"
    DISK = "disk_mb"


_WORDS: Final = {
    Limited.REAL_TIME: "was started for {used} s, {most} s are allowed",
    Limited.SIMULATED_TIME: "reached {used} s of simulated time, {most} s are allowed",
    Limited.MEMORY: "used {used} MB of memory, {most} MB are allowed",
    Limited.CPU_TIME: "took {used} s of CPU time, {most} s are allowed",
    Limited.PROCESSES: "had {used} processes at once, {most} are allowed",
    Limited.DISK: "took {used} MB of disk, {most} MB are allowed",
}

_MAY_WAIT: Final = {Limited.REAL_TIME, Limited.SIMULATED_TIME, Limited.CPU_TIME}
"""A simulation that exceeds one of these harms nobody by ending in order."""


@dataclass(frozen=True)
class Limit:
    """The most that a simulation may use of something.

    Attributes:
        most: in the unit of what is limited.
        name: where it was set, in words.
    """

    most: float
    name: str


@dataclass(frozen=True)
class Excess:
    """A limit that a simulation exceeds.

    Attributes:
        of: what it uses too much of.
        reason: with the limit's name and value and what was used, in a sentence.
    """

    of: Limited
    reason: str

    @property
    def may_wait(self) -> bool:
        """Whether the simulation may be left the time to end in order."""
        return self.of in _MAY_WAIT


def limits_in_force(settings: LauncherSettings, asked: Limits) -> dict[Limited, Limit]:
    """The stricter of what the launcher allows and what the launch asks for, where there is any limit."""
    allowed = {
        Limited.REAL_TIME: ("NRP_LIMIT_REAL_TIME_S", settings.limit_real_time_s),
        Limited.SIMULATED_TIME: ("NRP_LIMIT_SIMULATED_TIME_S", settings.limit_simulated_time_s),
        Limited.MEMORY: ("NRP_LIMIT_MEMORY_MB", settings.limit_memory_mb),
        Limited.CPU_TIME: ("NRP_LIMIT_CPU_TIME_S", settings.limit_cpu_time_s),
        Limited.PROCESSES: ("NRP_LIMIT_PROCESSES", settings.limit_processes),
        Limited.DISK: ("NRP_LIMIT_DISK_MB", settings.limit_disk_mb),
    }
    limits: dict[Limited, Limit] = {}
    for what, (name, most) in allowed.items():
        own = getattr(asked, what.value)
        if own is not None and (not most or own < most):
            limits[what] = Limit(own, f"{Limits.model_fields[what.value].alias or what.value} of its launch")
        elif most:
            limits[what] = Limit(most, name)
    return limits


class LimitWatch:
    """What one simulation uses, beside what it may.

    Args:
        limits: in force for it.
        folder: the simulation's.
        incarnation: of its server.
        table: the machine's processes.
        disk: the disk that all simulations share.
        cgroups: where the simulation gets a cgroup of its own, None where there is no such place.
    """

    def __init__(
        self,
        limits: Mapping[Limited, Limit],
        folder: SimulationFolder,
        incarnation: str,
        table: ProcessTable,
        disk: DiskUse,
        cgroups: CgroupTree | None,
    ) -> None:
        self._limits = limits
        self._folder = folder
        self._incarnation = incarnation
        self._table = table
        self._disk = disk
        self._cgroup = None if cgroups is None else cgroups.of(incarnation)
        self._cpu = CpuAccount()
        self._journal = Journal()
        self._journal_since = time.monotonic()

    # -- before the server starts, and after it ended ------------------------------------------------------------------

    @property
    def in_force(self) -> Mapping[Limited, Limit]:
        """The limits that are watched over."""
        return self._limits

    def prepare(self) -> None:
        """Make the simulation's cgroup, where there are any, and see how large its folder is before it writes to it.

        Raises:
            OSError: it cannot be made.
        """
        self._disk.megabytes(self._folder)
        if self._cgroup is not None:
            memory, processes = self._most(Limited.MEMORY), self._most(Limited.PROCESSES)
            self._cgroup.make(
                memory=None if math.isinf(memory) else int(memory * MEGABYTE),
                processes=None if math.isinf(processes) else int(processes),
            )

    @property
    def cgroup(self) -> Path | None:
        """Where the simulation's processes belong."""
        return None if self._cgroup is None else self._cgroup.path

    @property
    def largest_file(self) -> int | None:
        """The size in bytes that no file of the simulation may exceed, None for any size.

        It is more than the limit, so that who sees a file of this size sees the limit exceeded.
        """
        most = self._most(Limited.DISK)
        return None if math.isinf(most) else int(most * DISK_MEGABYTE) + DISK_MEGABYTE

    @property
    def most_tasks_of_user(self) -> int | None:
        """How many processes and threads there may be of all the launcher's user has, None for any number.

        Holds up a fork bomb where the kernel cannot count those of one simulation. For root it counts none.
        """
        most = self._most(Limited.PROCESSES)
        if self._cgroup is not None or math.isinf(most):
            return None
        return tasks_of_the_machine() + most_tasks(int(most)) + OTHERS_TASKS

    def kill(self, server: int | None, spawner: int | None) -> None:
        """Kill all processes of the simulation, however many they are; see `excess`."""
        if self._cgroup is not None:
            self._cgroup.kill()
        elif server is not None:
            self._table.kill(server, self._incarnation, spawner, self._folder.path)

    def release(self) -> None:
        """Remove the simulation's cgroup, with all that is still in it, and expect nothing of it any more."""
        if self._cgroup is not None:
            self._cgroup.end()
        self._disk.forget(self._folder)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def excess(self, journal: Journal, server: int | None, spawner: int | None) -> Excess | None:
        """The first limit that is exceeded now.

        Args:
            journal: the simulation's, as it is now.
            server: the process id of the simulation server, None when it does not run.
            spawner: of the spawner that it is below.
        """
        return self._time_excess(journal) or self.process_excess(server, spawner) or self._lasting_excess()

    def excess_at_the_end(self) -> Excess | None:
        """The first limit that was exceeded, as far as it can be seen when the server has ended by itself."""
        self._disk.measure(self._folder)
        return self._lasting_excess()

    def _lasting_excess(self) -> Excess | None:
        if self._cgroup is not None:
            if Limited.MEMORY in self._limits and self._cgroup.ran_out_of_memory:
                return self._beyond(Limited.MEMORY, f"over {_number(self._most(Limited.MEMORY))}")
            if self._cgroup.lost_to_the_machine:
                return Excess(Limited.MEMORY, "The memory of the machine ran out, and the kernel ended the simulation")
        megabytes = self._disk.megabytes(self._folder)
        if megabytes > self._most(Limited.DISK):
            return self._beyond(Limited.DISK, math.ceil(megabytes))
        if (reason := self._disk.shortage_by(self._folder)) is not None:
            return Excess(Limited.DISK, reason)
        return None

    def excess_of_processes(self, server: int | None, spawner: int | None) -> Excess | None:
        """That limit alone, when it is exceeded; see `excess`. From any thread."""
        if server is None or Limited.PROCESSES not in self._limits:
            return None
        processes = self._processes(server, spawner)
        return self._beyond(Limited.PROCESSES, processes) if processes > self._most(Limited.PROCESSES) else None

    def _processes(self, server: int, spawner: int | None) -> int:
        if self._cgroup is not None:
            return self._cgroup.processes()
        own = self._table.of(server, self._incarnation, spawner, self._folder.path)
        return sum(not each.has_ended for each in own)

    def _time_excess(self, journal: Journal) -> Excess | None:
        if journal != self._journal:
            self._journal, self._journal_since = journal, time.monotonic()
        real_time = journal.total_real_time
        if journal.state is SimulationState.STARTED:  # and since then, however seldom the journal is written
            real_time += time.monotonic() - self._journal_since
        if real_time > self._most(Limited.REAL_TIME):
            return self._beyond(Limited.REAL_TIME, round(real_time, 1))
        if journal.simulation_time > self._most(Limited.SIMULATED_TIME):
            return self._beyond(Limited.SIMULATED_TIME, round(journal.simulation_time, 3))
        return None

    def process_excess(self, server: int | None, spawner: int | None) -> Excess | None:
        """The first limit of memory, processes or CPU time that is exceeded now; see `excess`."""
        if server is None or not self._limits.keys() & {Limited.MEMORY, Limited.CPU_TIME, Limited.PROCESSES}:
            return None
        if (too_many := self.excess_of_processes(server, spawner)) is not None:
            return too_many
        if self._cgroup is not None:
            own, cpu_time = None, self._cgroup.cpu_time()
        else:
            own = self._table.of(server, self._incarnation, spawner, self._folder.path)
            cpu_time = self._cpu.add(own)
        if cpu_time > self._most(Limited.CPU_TIME):
            return self._beyond(Limited.CPU_TIME, round(cpu_time, 1))
        if own is not None and Limited.MEMORY in self._limits:
            memory = memory_of(own, self._most(Limited.MEMORY) * MEGABYTE) / MEGABYTE
            if memory > self._most(Limited.MEMORY):
                return self._beyond(Limited.MEMORY, math.ceil(memory))
        return None

    def _most(self, what: Limited) -> float:
        limit = self._limits.get(what)
        return math.inf if limit is None else limit.most

    def _beyond(self, what: Limited, used: object) -> Excess:
        limit = self._limits[what]
        words = _WORDS[what].format(used=used, most=_number(limit.most))
        return Excess(what, f"The simulation {words} (limit {limit.name})")


def _number(value: float) -> str:
    return f"{value:.12g}"
