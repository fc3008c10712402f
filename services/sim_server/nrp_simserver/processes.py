"""The processes of a simulation: how they are marked, found when their server has ended, and ended.

A simulation server is a session of its own below the spawner, which adopts whatever loses its parent. So all that a
simulation has started is below the server while it lives, and below the spawner afterwards, be it daemonised or not. Of
the spawner's descendants a simulation's own are those that are in its session, bear its mark, work in its folder or
write to its log.

The mark is the incarnation in the environment `NRP_INCARNATION`, as the kernel shows it in `/proc/<pid>/environ`: it
is inherited by fork and by exec.
"""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import io
import itertools
import logging
import os
import select
import signal
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

log = logging.getLogger(__name__)

FoundT = TypeVar("FoundT")

MARK: Final = "NRP_INCARNATION"
"""The environment variable that tells to which start of a simulation server a process belongs."""

UNMARKED: Final = "-" * 32
"""Keeps room in a process's initial environment for an incarnation, which is the hexadecimal form of a uuid."""

END_TIMEOUT_S: Final = 5.0
"""A process that SIGKILL does not end in this time hangs in the kernel; then nothing else can be done about it."""

MOST_LOOKS: Final = 20
"""How often those are looked for who may be starting others: on a busy machine there is always somebody new."""

MOST_AT_ONCE: Final = 500
"""How many processes are killed in one go: for each a descriptor is open, and a launcher may have a thousand."""

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36

_libc = ctypes.CDLL(None, use_errno=True)


# -- what a process does to itself -----------------------------------------------------------------------------------


def _prctl(option: int, argument: int) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; `parent` is that process's id."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel knew
        os._exit(1)


def be_private() -> None:
    """Keep the memory and the environment of this process from others of the same user, until it executes another."""
    _prctl(_PR_SET_DUMPABLE, 0)


def adopt_orphans() -> None:
    """Make this process the parent of all its descendants that lose theirs."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def mark(incarnation: str) -> None:
    """Mark this process and all that it will start. It has to be started with `MARK` set to `UNMARKED`."""
    # The kernel shows the environment as it was laid out at the last exec: only writing over it reaches a mere fork.
    assert len(incarnation) == len(UNMARKED)
    placeholder, here = f"{MARK}={UNMARKED}".encode(), Path("/proc/self")
    offset = (b"\0" + (here / "environ").read_bytes()).index(b"\0" + placeholder)
    start = int(_stat_fields(here)[47])  # env_start, proc(5)
    ctypes.memmove(start + offset, f"{MARK}={incarnation}".encode(), len(placeholder))
    os.environ[MARK] = incarnation


class _Descriptor(io.FileIO):
    """Writes all it is given, and has no lock."""

    def write(self, data: Any, /) -> int:
        left = whole = memoryview(data).cast("B")
        while left:  # a signal, or a disk that is nearly full, cuts a write short
            written = super().write(left)
            if written is None:
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), len(whole) - len(left))
            left = left[written:]
        return len(whole)


def line_buffered(descriptor: int) -> io.TextIOWrapper:
    """A text file over a descriptor, which stays open: as stdout and stderr of a process.

    It has no lock, unlike what `open` returns: in a process that is forked while another thread writes nobody would
    ever release that, so that its first line, or its end, would wait for good.
    """
    file = _Descriptor(descriptor, "w", closefd=False)
    return io.TextIOWrapper(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def leave(status: int) -> NoReturn:
    """End this process as quickly as a script's files allow.

    Exit handlers are called and open files flushed; the rest of the interpreter's end, which takes longer than stopping
    a simulation may, is left out, and threads that a script left behind do not hold the process up.
    """
    with suppress(Exception):
        atexit._run_exitfuncs()
    for file in _open_files():
        with suppress(Exception):
            file.flush()
    os._exit(status)


def _open_files() -> Iterator[io.IOBase]:
    for each in gc.get_objects():
        if isinstance(each, io.TextIOWrapper | io.BufferedWriter | io.BufferedRandom) and not each.closed:
            yield each


# -- whose a process is ----------------------------------------------------------------------------------------------


def _stat_fields(process: Path) -> list[bytes]:
    # The second field is the program's name in parentheses, which may itself hold any of both.
    return (process / "stat").read_bytes().rpartition(b")")[2].split()


def mark_of(pid: int, variable: str = MARK) -> str | None:
    """The incarnation that a process is marked with, None when there is no such process or mark.

    Another environment variable can serve as another mark.
    """
    with suppress(OSError):
        for setting in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
            name, _, value = setting.partition(b"=")
            if name == variable.encode():
                return value.decode(errors="replace")
    return None


def marked(incarnations: Collection[str], variable: str = MARK) -> list[int]:
    """The ids of all processes of this machine that bear one of these marks."""
    return [pid for pid in all_pids() if mark_of(pid, variable) in incarnations and not has_ended(pid)]


def all_pids() -> list[int]:
    """The ids of all processes of this machine."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdecimal()]  # noqa: PTH208  a path each costs more


def left_behind(
    spawner: int, server: int, incarnation: str, folder: Path, *, besides: Collection[int] = ()
) -> list[int]:
    """The ids of what a simulation whose server has ended left running below its spawner.

    Args:
        spawner: the spawner's process id.
        server: the ended server's process id.
        incarnation: the server's.
        folder: the simulation's folder, absolute.
        besides: ids of other simulation servers, whose descendants are theirs.
    """
    return [
        pid
        for pid in descendants(spawner, besides)
        if not has_ended(pid)
        and (_session(pid) == server or mark_of(pid) == incarnation or works_in(pid, folder.resolve()))
    ]


def descendants(pid: int, besides: Collection[int] = ()) -> Iterator[int]:
    """The ids of a process's children and theirs, without those of `besides`."""
    for child in children(pid):
        if child not in besides:
            yield child
            yield from descendants(child)


def children(pid: int) -> list[int]:
    """The ids of a process's children."""
    found: list[int] = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):  # a thread that has just ended
                found += map(int, (thread / "children").read_bytes().split())
    return found


def _session(pid: int) -> int | None:
    with suppress(OSError):
        return int(_stat_fields(Path(f"/proc/{pid}"))[3])
    return None


def has_ended(pid: int) -> bool:
    """Whether a process is gone, or waits only for its parent to take note of it."""
    with suppress(OSError):
        return _stat_fields(Path(f"/proc/{pid}"))[0] in (b"Z", b"X")
    return True


def ended_children() -> Iterator[tuple[int, int]]:
    """The ids and wait statuses of this process's children that have ended, each of which is told only once."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


def await_end(pid: int, timeout: float) -> bool:
    """Wait for the end of a process, which need not be a child. Returns whether it came within `timeout` seconds."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ending = select.poll()
        ending.register(process, select.POLLIN)
        return bool(ending.poll(timeout * 1000))
    finally:
        os.close(process)


def works_in(pid: int, folder: Path) -> bool:
    """Whether a process has its working directory, or what it writes to, below a folder, which is absolute."""
    for link in ("cwd", "fd/1", "fd/2"):
        with suppress(OSError):
            if Path(f"/proc/{pid}/{link}").readlink().is_relative_to(folder):
                return True
    return False


# -- how they end ----------------------------------------------------------------------------------------------


def describe_end(exit_code: int) -> str:
    """How a process ended, by its exit code or the negative number of the signal: "was ended by SIGSEGV"."""
    if exit_code < 0:
        return f"was ended by {signal.Signals(-exit_code).name}"
    return f"ended with status {exit_code}"


def send(server: int, number: int) -> None:
    """Send a signal to a simulation server, SIGKILL to its whole process group: in one go, so that no fork escapes.

    Args:
        server: the id of a child of this process, whose end was not taken note of yet.
        number: the signal's.
    """
    os.kill(server, number)
    if number == signal.SIGKILL:
        with suppress(ProcessLookupError):  # it has no group of its own yet
            os.killpg(server, number)


def find_surely(find: Callable[[], Collection[FoundT]]) -> Collection[FoundT]:
    """What `find` finds of the processes of this machine. When that is nothing, nothing was missed.

    Who starts another and ends while the kernel's table is read is in it with neither, who gets another parent
    meanwhile perhaps below none. So nothing has to be found twice without a new process anywhere on the machine; where
    there is one each time, `MOST_LOOKS` have to do.
    """
    for _ in range(MOST_LOOKS):
        before = set(all_pids())
        if (found := find() or find()) or before.issuperset(all_pids()):
            break
    return found


def end_all(find: Callable[[], Collection[int]], timeout: float = END_TIMEOUT_S) -> bool:
    """Kill what `find` finds, until it surely finds nothing: a process may start others while it is being killed.

    Returns:
        Whether nothing is left; what is left after `timeout` seconds is logged.
    """
    deadline = time.monotonic() + timeout
    while victims := find_surely(find):
        if time.monotonic() > deadline:
            log.error("These processes do not end although they were killed: %s", sorted(victims))
            return False
        _kill(victims, find)
    return True


def _kill(victims: Collection[int], find: Callable[[], Collection[int]]) -> None:
    with ExitStack() as descriptors:
        processes: dict[int, int] = {}
        for pid in itertools.islice(victims, MOST_AT_ONCE):
            with suppress(ProcessLookupError):
                processes[pid] = os.pidfd_open(pid)
                descriptors.callback(os.close, processes[pid])
        # A number may have gone to somebody else before its descriptor was open.
        for pid in set(find()) & processes.keys():
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(processes[pid], signal.SIGKILL)
        ending = select.poll()
        for process in processes.values():
            ending.register(process, select.POLLIN)
        ending.poll(100)
