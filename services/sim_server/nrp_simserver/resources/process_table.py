"""What the processes of simulations use, read from the kernel's table of processes.

The whole table is read in one go for all simulations of a launcher: a process takes some 12 us, and its line tells
parent, session, memory and CPU time.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from nrp_simserver import processes

KILLED_WITHIN_S: Final = 5.0

FRESH_S: Final = 0.5
"""How old what was read may be. Each simulation looks once a second."""

LONGEST_LINE: Final = 1024
"""In bytes, of `/proc/<pid>/stat`."""

_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """A process as the kernel's table tells it.

    Attributes:
        pid: its id, which another one may have had before.
        started: when it was started, in clock ticks since the machine was.
        parent: the id of its parent.
        session: the id of its session.
        has_ended: whether it waits only for its parent to take note of that.
        cpu_time: that it has taken itself, in seconds.
        waited_cpu_time: that its children had taken that have ended and been waited for, in seconds.
        resident: its memory in bytes, what it shares with others included.
    """

    pid: int
    started: int
    parent: int
    session: int
    has_ended: bool
    cpu_time: float
    waited_cpu_time: float
    resident: int


class Adopted(NamedTuple):
    """The children of a spawner: simulation servers, and what lost its parent.

    Attributes:
        by_session: by the id of the session that they are in.
        by_mark: by the incarnation that they are marked with.
        unmarked: those without a mark.
    """

    by_session: defaultdict[int, list[Process]]
    by_mark: defaultdict[str, list[Process]]
    unmarked: list[Process]


class ProcessTable:
    """The processes of this machine, by whom they belong to. Usable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards all but the next
        self._hurry = threading.RLock()
        self._read_at = float("-inf")
        self._by_pid: dict[int, Process] = {}
        self._children: dict[int, list[Process]] = {}
        self._adopted: dict[int, Adopted] = {}  # by spawner
        self._marks: dict[tuple[int, int], str | None] = {}  # of what spawners adopted

    def of(self, server: int, incarnation: str, spawner: int | None, folder: Path) -> list[Process]:
        """The processes of one simulation: its server, all below it, and what below the spawner once belonged to it.

        Args:
            server: the process id of its simulation server.
            incarnation: the server's, with which its processes are marked.
            spawner: the process id of the spawner, which adopts what loses its parent.
            folder: the simulation's, absolute.
        """
        with self._lock:
            if time.monotonic() - self._read_at > FRESH_S:
                self._read()
            return self._of(server, incarnation, spawner, folder)

    def read(self) -> None:
        """Read the table again, however fresh it is."""
        with self._lock:
            self._read()

    def kill(self, server: int, incarnation: str, spawner: int | None, folder: Path) -> None:
        """Kill all processes of a simulation: see `of`. They may start others faster than any but this can find them.

        What is not gone after `KILLED_WITHIN_S` is left.
        """

        def living() -> list[Process]:
            with self._lock:
                self._read()
                return [each for each in self._of(server, incarnation, spawner, folder) if not each.has_ended]

        deadline = time.monotonic() + KILLED_WITHIN_S
        with self.ahead_of_everybody():
            while (own := processes.find_surely(living)) and time.monotonic() < deadline:
                for each in own:
                    _kill(each)

    @contextmanager
    def ahead_of_everybody(self) -> Iterator[None]:
        """Let this process run before all others, where it may: among thousands its turn comes once in a few seconds.

        All its threads, as one that waits for its turn may hold the interpreter's lock. For one caller at a time, which
        may ask again.
        """
        with self._hurry:
            before: dict[int, tuple[int, os.sched_param]] = {}
            for thread in map(int, os.listdir("/proc/self/task")):  # noqa: PTH208
                with suppress(OSError):  # it has just ended, or this process may not
                    policy = os.sched_getscheduler(thread), os.sched_getparam(thread)
                    os.sched_setscheduler(thread, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
                    before[thread] = policy
            try:
                yield
            finally:
                for thread, (kind, parameter) in before.items():
                    with suppress(OSError):
                        os.sched_setscheduler(thread, kind, parameter)

    def _of(self, server: int, incarnation: str, spawner: int | None, folder: Path) -> list[Process]:
        found = {server: self._by_pid[server]} if server in self._by_pid else {}
        if spawner is not None:
            adopted = self._adopted_by(spawner)
            unmarked = (each for each in adopted.unmarked if processes.works_in(each.pid, folder))
            for each in (*adopted.by_session[server], *adopted.by_mark[incarnation], *unmarked):
                found[each.pid] = each
        family = list(found.values())
        for each in family:  # grows on the way
            family += self._children.get(each.pid, [])
        return family

    def _adopted_by(self, spawner: int) -> Adopted:
        """The children of a spawner: simulation servers, and what lost its parent."""
        if spawner not in self._adopted:
            adopted = self._adopted[spawner] = Adopted(defaultdict(list), defaultdict(list), [])
            for each in self._children.get(spawner, []):
                adopted.by_session[each.session].append(each)
                (adopted.unmarked if (mark := self._mark_of(each)) is None else adopted.by_mark[mark]).append(each)
        return self._adopted[spawner]

    def _mark_of(self, orphan: Process) -> str | None:
        key = orphan.pid, orphan.started
        if key not in self._marks:
            self._marks[key] = processes.mark_of(orphan.pid)
        return self._marks[key]

    def _read(self) -> None:
        self._by_pid = {each.pid: each for each in _all_processes()}
        children: defaultdict[int, list[Process]] = defaultdict(list)
        for each in self._by_pid.values():
            children[each.parent].append(each)
        self._children = dict(children)
        self._adopted.clear()
        living = {(each.pid, each.started) for each in self._by_pid.values()}
        self._marks = {key: mark for key, mark in self._marks.items() if key in living}
        self._read_at = time.monotonic()


def _all_processes() -> Iterator[Process]:
    for pid in processes.all_pids():
        with suppress(OSError):  # one that has just ended
            yield read_process(pid)


def read_process(pid: int) -> Process:
    """One process, as it is now.

    Raises:
        OSError: there is none of that id.
    """
    file = os.open(f"/proc/{pid}/stat", os.O_RDONLY)
    try:
        # The second field is the program's name in parentheses, which may itself hold any of both.
        fields = os.read(file, LONGEST_LINE).rpartition(b")")[2].split()
    finally:
        os.close(file)
    return Process(
        pid=pid,
        started=int(fields[19]),
        parent=int(fields[1]),
        session=int(fields[3]),
        has_ended=fields[0] in (b"Z", b"X"),
        cpu_time=(int(fields[11]) + int(fields[12])) * _TICK_S,
        waited_cpu_time=(int(fields[13]) + int(fields[14])) * _TICK_S,
        resident=int(fields[21]) * _PAGE,
    )


def tasks_of_the_machine() -> int:
    """How many processes and threads there are, all together; takes 20 us. 0 where the kernel does not tell."""
    with suppress(OSError, ValueError, IndexError):
        # "0.20 0.18 0.12 3/180 4711": load, how many can run and are there, the latest
        return int(Path("/proc/loadavg").read_text().split()[3].partition("/")[2])
    return 0


def _kill(process: Process) -> None:
    with suppress(OSError):  # it has ended
        descriptor = os.pidfd_open(process.pid)
        try:
            # Its number may have gone to somebody else before the descriptor was open.
            if read_process(process.pid).started == process.started:
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)


# -- memory ----------------------------------------------------------------------------------------------------------


def memory_of(own: Sequence[Process], most: float) -> int:
    """The memory of processes together, in bytes; exact when it may be more than `most`.

    What is resident counts what processes share once for each, a fork's too, and is never too little. Only when that
    is too much are the shares asked for, for which the kernel has to go through all pages.
    """
    resident = sum(each.resident for each in own)
    return resident if resident <= most else sum(share_of_memory(each) for each in own)


def share_of_memory(process: Process) -> int:
    """The memory of a process in bytes, where what it shares is divided by who shares it; swapped out pages count."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path(f"/proc/{process.pid}/smaps_rollup").read_bytes().splitlines()
        kilobytes = [int(line.split()[1]) for line in lines if line.startswith((b"Pss:", b"SwapPss:"))]
        return sum(kilobytes) * 1024
    return process.resident


# -- CPU time --------------------------------------------------------------------------------------------------------


class CpuAccount:
    """The CPU time that the processes of one simulation have taken since it began, those that have ended included."""

    def __init__(self) -> None:
        self._used = 0.0
        self._seen: dict[tuple[int, int], Process] = {}

    def add(self, own: Sequence[Process]) -> float:
        """Take note of the processes as they are now. Returns the CPU time so far, in seconds."""
        now = {(each.pid, each.started): each for each in own}
        counted = self._counted_of_ended(now)
        for key, each in now.items():
            before = self._seen.get(key)
            waited = each.waited_cpu_time - (before.waited_cpu_time if before else 0.0)
            self._used += each.cpu_time - (before.cpu_time if before else 0.0) + max(0.0, waited - counted[each.pid])
        self._seen = now
        return self._used

    def _counted_of_ended(self, now: dict[tuple[int, int], Process]) -> defaultdict[int, float]:
        """What was counted already of those that have ended since, by the ancestor that it is now counted for, too."""
        living = {pid for pid, _ in now}
        parents = {each.pid: each.parent for each in self._seen.values()}
        counted: defaultdict[int, float] = defaultdict(float)
        for key, each in self._seen.items():
            if key not in now:
                heir = each.parent
                while heir in parents and heir not in living:
                    heir = parents[heir]
                counted[heir] += each.cpu_time + each.waited_cpu_time
        return counted
