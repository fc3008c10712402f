"""The spawner: a process that has imported all that a simulation server needs and forks one in milliseconds.

It is the parent of the servers and adopts what they leave behind. It has no thread, because a fork takes only the
thread that calls it along. Launcher and spawner exchange the messages below, one JSON object a line, over a stream
socket; when the other end is closed the spawner ends all that it has started, and itself.
"""

from __future__ import annotations

import gc
import importlib
import os
import select
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Literal, NoReturn

from pydantic import BaseModel, Field, TypeAdapter

from nrp_simserver import processes
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder

PRELOADED: Final = (
    "nrp_simserver.server",
    "numpy",
    "numpy.random",
    "asyncio",
    "concurrent.futures",
    "csv",
    "google.protobuf.internal.builder",
    "google.protobuf.message_factory",
    "inspect",
    "json",
    "logging.handlers",
    "multiprocessing",
    "sqlite3",
    "subprocess",
)
"""Modules of the servers, and those that experiments import most."""

MAX_DESCRIPTORS: Final = 64
"""The spawner holds five descriptors or so; a server inherits none of them."""

END_TIMEOUT_S: Final = 3.0
"""How long the spawner waits at its end for what it has killed."""


# -- what launcher and spawner say to each other ---------------------------------------------------------------------


class Spawn(BaseModel):
    """Start a simulation server."""

    kind: Literal["spawn"] = "spawn"
    setup: ServerSetup


class Signal(BaseModel):
    """Send a signal to a simulation server; nothing when it has ended."""

    kind: Literal["signal"] = "signal"
    incarnation: str
    number: int


class Ready(BaseModel):
    """Everything is imported."""

    kind: Literal["ready"] = "ready"


class Spawned(BaseModel):
    """A simulation server runs."""

    kind: Literal["spawned"] = "spawned"
    incarnation: str
    pid: int


class NotSpawned(BaseModel):
    """A simulation server could not be started."""

    kind: Literal["not spawned"] = "not spawned"
    incarnation: str
    reason: str


class Ended(BaseModel):
    """A simulation server has ended.

    Attributes:
        incarnation: the server's.
        exit_code: its exit code, or the negative number of the signal that killed it.
    """

    kind: Literal["ended"] = "ended"
    incarnation: str
    exit_code: int


Order = Spawn | Signal
Report = Ready | Spawned | NotSpawned | Ended

ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
REPORT: Final[TypeAdapter[Report]] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


def to_line(message: Order | Report) -> bytes:
    """A message as it goes through the socket."""
    return message.model_dump_json().encode() + b"\n"


# -- the process -----------------------------------------------------------------------------------------------------


class Spawner:
    """Forks simulation servers on order and reports how they end.

    Args:
        launcher: the socket to the launcher.
    """

    def __init__(self, launcher: socket.socket) -> None:
        self._launcher = launcher
        self._incarnations: dict[int, str] = {}
        self._unfinished_line = b""
        self._child_ended, self._wake = socket.socketpair()
        self._child_ended.setblocking(False)
        self._wake.setblocking(False)

    def run(self) -> None:
        """Work until the launcher closes its end; then end everything that is left."""
        # Whoever signals a service's whole process group leaves it to the launcher to end this process in order.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno(), warn_on_full_buffer=False)
        with suppress(BrokenPipeError, ConnectionResetError):
            self._work()
        self._end_everything()

    def _work(self) -> None:
        self._report(Ready())
        with selectors.DefaultSelector() as events:
            events.register(self._launcher, selectors.EVENT_READ)
            events.register(self._child_ended, selectors.EVENT_READ)
            while True:
                for key, _ in events.select():
                    if key.fileobj is self._child_ended:
                        self._child_ended.recv(1024)
                        self._reap()
                    elif not self._take_orders():
                        return

    def _take_orders(self) -> bool:
        received = self._launcher.recv(65536)
        *lines, self._unfinished_line = (self._unfinished_line + received).split(b"\n")
        for line in lines:
            match ORDER.validate_json(line):
                case Spawn(setup=setup):
                    self._spawn(setup)
                case Signal(incarnation=incarnation, number=number):
                    for pid, known in self._incarnations.items():
                        if known == incarnation:
                            os.kill(pid, number)
        return bool(received)

    def _report(self, report: Report) -> None:
        self._launcher.sendall(to_line(report))

    def _reap(self) -> None:
        for pid, status in _ended_children():
            incarnation = self._incarnations.pop(pid, None)
            if incarnation is not None:  # else an adopted orphan
                self._report(Ended(incarnation=incarnation, exit_code=os.waitstatus_to_exitcode(status)))

    def _spawn(self, setup: ServerSetup) -> None:
        spawner = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._report(NotSpawned(incarnation=setup.incarnation, reason=f"no process could be forked: {error}"))
            return
        if pid == 0:
            _become_server(setup, spawner)
        self._incarnations[pid] = setup.incarnation
        self._report(Spawned(incarnation=setup.incarnation, pid=pid))

    def _end_everything(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        # What a killed process leaves behind becomes a child of this one, and is killed in the next round.
        while (left := processes.children(os.getpid())) and time.monotonic() < deadline:
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            select.select([self._child_ended], [], [], 0.1)
            for _ in _ended_children():
                pass


def _ended_children() -> Iterator[tuple[int, int]]:
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0] != 0:
            yield ended


def _become_server(setup: ServerSetup, spawner: int) -> NoReturn:
    code = 1
    try:
        os.setsid()
        processes.die_with_parent(spawner)
        processes.mark(setup.incarnation)
        _write_to(SimulationFolder(setup.folder, setup.simulation_id).log)  # the server does it only when it runs
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.closerange(3, MAX_DESCRIPTORS)  # their Python objects live on in frames that this process never returns to
        sys.modules["numpy"].random.seed()  # `random` does it by itself; without it all simulations draw the same
        importlib.import_module("nrp_simserver.server").run(setup)
        code = 0
    except BaseException:  # noqa: BLE001  whatever it is, this process must never go on as a spawner
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _write_to(file: Path) -> None:
    log_file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log_file, 1)
    os.dup2(log_file, 2)
    os.close(log_file)


def main() -> None:
    """Run the spawner on the socket whose descriptor is the first argument."""
    signal.pthread_sigmask(signal.SIG_SETMASK, [])  # the launcher has blocked those that it waits for
    launcher = socket.socket(fileno=int(sys.argv[1]))
    launcher.set_inheritable(False)
    for module in PRELOADED:
        importlib.import_module(module)
    processes.adopt_orphans()
    gc.collect()
    gc.freeze()  # what all servers share stays shared: the collector would write to each object
    Spawner(launcher).run()


if __name__ == "__main__":
    main()
