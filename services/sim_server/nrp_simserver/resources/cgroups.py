"""Cgroups (version 2): with one for each simulation, the kernel keeps its limits and accounts what it uses.

A launcher may use a part of the hierarchy that was left to it: by systemd (`Delegate=yes`), all of it where
nobody else keeps cgroups, as in a container, or what the settings say. No cgroup can have both processes and limited
cgroups below it, so what runs in that part goes into one of its own, beside those of the simulations.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

CONTROLLERS: Final = {"memory", "pids"}
"""CPU time is accounted without one."""

SERVICES: Final = "nrp_services"
"""The cgroup of launcher, spawner, and what else was in the delegated one."""

SYSTEMD: Final = Path("/run/systemd/system")
"""Is there where systemd keeps the cgroups."""

THREADS_PER_PROCESS: Final = 8
FEWEST_TASKS: Final = 256
"""The kernel counts threads like processes. Its limit holds up a fork bomb until somebody counts the processes."""

END_TIMEOUT_S: Final = 5.0
"""What SIGKILL does not end in this time hangs in the kernel."""

MOVES: Final = 10
"""How often what runs in a cgroup is moved out of it: it may start more processes meanwhile."""


class NoCgroups(Exception):
    """There is no part of the hierarchy that a launcher may use; says why."""


class SimulationCgroup:
    """The cgroup of one simulation.

    Attributes:
        path: absolute. The simulation server enters it by itself, before anything of the experiment runs.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def make(self, memory: int | None, processes: int | None) -> None:
        """Make it, empty, with these limits: memory in bytes, and a number of processes; None for any.

        Raises:
            OSError: it cannot be made.
        """
        self.path.mkdir(exist_ok=True)
        if memory is not None:
            self._write("memory.max", str(memory))
            self._write("memory.oom.group", "1")  # a simulation ends as a whole
            with suppress(FileNotFoundError):  # a kernel that does not count what is swapped out
                self._write("memory.swap.max", "0")
        if processes is not None:
            self._write("pids.max", str(most_tasks(processes)))

    def processes(self) -> int:
        """How many processes are in it, 0 when it is gone."""
        return len(self._pids())

    def cpu_time(self) -> float:
        """What they and those that have ended took, in seconds."""
        return self._counts("cpu.stat").get("usage_usec", 0) / 1e6

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether its processes needed more memory than they may use."""
        return self._counts("memory.events").get("oom", 0) > 0

    @property
    def lost_to_the_machine(self) -> bool:
        """Whether the kernel ended processes of it as memory ran out, here or on the whole machine."""
        return self._counts("memory.events").get("oom_kill", 0) > 0

    def end(self) -> None:
        """Kill what is in it, and remove it. What stays is logged."""
        deadline = time.monotonic() + END_TIMEOUT_S
        while self.path.exists():
            self.kill()
            with suppress(OSError):  # not while there is a process in it that ends
                for below in sorted(self.path.rglob("*/"), reverse=True):
                    below.rmdir()
                self.path.rmdir()
                return
            if time.monotonic() > deadline:
                log.error("The cgroup %s cannot be removed, these processes are in it: %s", self.path, self._pids())
                return
            time.sleep(0.01)

    def kill(self) -> None:
        """Kill what is in it."""
        try:
            self._write("cgroup.kill", "1")
        except OSError:  # it is gone, or the kernel is older than 5.14
            for pid in self._pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _pids(self) -> list[int]:
        try:
            return [int(pid) for pid in (self.path / "cgroup.procs").read_text().split()]
        except OSError:
            return []

    def _counts(self, file: str) -> dict[str, int]:
        try:
            lines = (self.path / file).read_text().splitlines()
        except OSError:
            return {}
        return {name: int(value) for name, _, value in (line.partition(" ") for line in lines)}

    def _write(self, file: str, text: str) -> None:
        _write(self.path / file, text)


class CgroupTree:
    """The cgroups of a launcher's simulations.

    Attributes:
        base: the part of the hierarchy that the launcher may use, prepared by `claim`.
    """

    def __init__(self, base: Path) -> None:
        self.base = base

    def of(self, incarnation: str) -> SimulationCgroup:
        """The cgroup of the simulation with this incarnation of a server; it need not be there."""
        return SimulationCgroup(path_of(self.base, incarnation))

    def remove_empty(self) -> None:
        """Remove those of simulations that never were: of idle servers whose spawner was killed."""
        for path in self.base.glob(path_of(self.base, "*").name):
            with suppress(OSError):  # not empty
                path.rmdir()


def most_tasks(processes: int) -> int:
    """How many processes and threads a simulation may have that may have so many processes."""
    return max(FEWEST_TASKS, processes * THREADS_PER_PROCESS)


def path_of(base: Path, incarnation: str) -> Path:
    """The cgroup of the simulation with this incarnation of a server."""
    return base / f"nrp_simulation_{incarnation}"


def enter(cgroup: Path) -> None:
    """Move this process into a cgroup; all that it starts from now on is in it, too.

    That takes some 20 ms: the kernel waits until no process can be in the middle of a fork.

    Raises:
        OSError: it may not.
    """
    _write(cgroup / "cgroup.procs", "0")


def enter_early(cgroup: Path) -> None:
    """Make the cgroup of a simulation and move this process into it, when that works: its launch need not wait."""
    with suppress(OSError):
        cgroup.mkdir(exist_ok=True)
        enter(cgroup)


def is_inside(cgroup: Path) -> bool:
    """Whether this process is in the cgroup of a simulation."""
    return any(line.endswith(f"/{cgroup.name}") for line in _lines(Path("/proc/self/cgroup")))


# -- where a launcher may make cgroups -------------------------------------------------------------------------------


def claim(
    setting: str, *, proc: Path = Path("/proc/self"), is_delegated: Callable[[Path], bool] | None = None
) -> CgroupTree:
    """Prepare the part of the hierarchy that this process may use.

    Args:
        setting: its path, or `auto` to find it.
        proc: where the kernel tells of this process.
        is_delegated: whether a cgroup was left to whoever runs in it; asks systemd's mark when not given.

    Raises:
        NoCgroups: there is none.
    """
    base = _delegated(proc, is_delegated or _has_systemds_mark) if setting == "auto" else Path(setting)
    tree = CgroupTree(base)
    try:
        missing = CONTROLLERS - _words(base / "cgroup.controllers")
        if missing:
            raise NoCgroups(f"{base} has no controller for {' and '.join(sorted(missing))}")
        _prepare(base)
        _try_out(tree, _own_cgroup(proc))
    except OSError as error:
        raise NoCgroups(f"{error.filename or base}: {error.strerror}") from error
    return tree


def _delegated(proc: Path, is_delegated: Callable[[Path], bool]) -> Path:
    found = _own_cgroup(proc)
    if found is None:
        raise NoCgroups("there are none of version 2")
    mount, own = found
    if own.name == SERVICES:  # an earlier launcher prepared the one above, and this process has been started in it
        own = own.parent
    for candidate in (own, own.parent):  # the parent with systemd's `DelegateSubgroup=`
        if candidate.is_relative_to(mount) and is_delegated(candidate):
            return candidate
    if own == mount and not SYSTEMD.exists():  # of a container, or of a machine where nobody keeps cgroups
        return own
    raise NoCgroups(f"the cgroup {own} is not delegated to the launcher")


def _own_cgroup(proc: Path) -> tuple[Path, Path] | None:
    """Where the hierarchy is mounted, and this process's cgroup in it; None when there is none.

    Args:
        proc: where the kernel tells of this process.
    """
    own = next((line.removeprefix("0::") for line in _lines(proc / "cgroup") if line.startswith("0::")), None)
    for line in _lines(proc / "mountinfo"):
        fields, _, rest = line.partition(" - ")
        root, mount = fields.split()[3:5]
        if own is not None and rest.startswith("cgroup2 ") and Path(own).is_relative_to(root):
            return Path(mount), Path(mount) / Path(own).relative_to(root)
    return None


def _has_systemds_mark(cgroup: Path) -> bool:
    for name in ("user.delegate", "trusted.delegate"):
        with suppress(OSError):
            if os.getxattr(cgroup, name) == b"1":
                return True
    return False


def _prepare(base: Path) -> None:
    """Let cgroups below have limits."""
    if _words(base / "cgroup.subtree_control") >= CONTROLLERS:
        return
    if (base / "cgroup.type").exists():  # the hierarchy's very root may have processes
        services = base / SERVICES
        services.mkdir(exist_ok=True)
        for _ in range(MOVES):
            pids = _words(base / "cgroup.procs")
            for pid in pids:
                with suppress(ProcessLookupError):
                    _write(services / "cgroup.procs", pid)
            if not pids:
                break
    _write(base / "cgroup.subtree_control", " ".join(f"+{each}" for each in sorted(CONTROLLERS)))


def _try_out(tree: CgroupTree, own: tuple[Path, Path] | None) -> None:
    """Make a cgroup with limits, and go into it and back: who may do that may do all."""
    trial = tree.of(f"trial_{os.getpid()}")
    try:
        trial.make(memory=2**40, processes=FEWEST_TASKS)
        if own is not None:
            enter(trial.path)
            enter(own[1])
    finally:
        with suppress(OSError):
            trial.path.rmdir()


def _words(file: Path) -> set[str]:
    return set(file.read_text().split())


def _lines(file: Path) -> Iterator[str]:
    with suppress(OSError):
        yield from file.read_text().splitlines()


def _write(file: Path, text: str) -> None:
    # In one call, and without creating what is not there: the kernel's files take what is written as one order.
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
