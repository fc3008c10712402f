"""The program NRPCoreSim as a child process: where it listens, whether it lives, what it said last, how it ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from nrp_common.errors import CoreLost, EngineUnavailable
from nrp_simserver import processes
from nrp_simserver.bound_program import start_bound
from nrp_simserver.cores.nrpcoresim.console_log import LOG, ConsoleLog

if TYPE_CHECKING:
    import psutil

HOST: Final = "127.0.0.1"
_REACHED_BY_HOST: Final = frozenset({HOST, "0.0.0.0", "::", f"::ffff:{HOST}"})  # noqa: S104  nothing is bound to it

MARK: Final = "NRP_NRPCORESIM"
"""The environment variable that tells by which start of an NRPCoreSim a process was started."""

ENDING_S: Final = 0.5
"""How long it has to end after SIGTERM, in seconds; its engines have been shut down before."""

DYING_S: Final = 1.0
"""How long after its connection broke a program that dies may take to be gone, in seconds."""

LOOK_INTERVAL_S: Final = 1.0
"""Between two looks at who listens at its address, in seconds: they go through all processes."""

_ADDRESS_IN_USE: Final = re.compile(r"address already in use|failed to bind|no address added", re.IGNORECASE)
"""What a gRPC server says when it cannot have its address."""


class AddressTaken(CoreLost):
    """Somebody else took the address that NRPCoreSim was to have."""


def find_program(name: str) -> str | None:
    """The path of a program, by its path or its name on the PATH; None when there is none."""
    return shutil.which(name)


def not_found(name: str) -> str:
    """What to say of a program that there is not."""
    return f"there is no program {name}" + ("" if "/" in name else " on the PATH")


class Program:
    """An NRPCoreSim that serves one experiment, from its start until nothing of it runs any more.

    It dies with this process when it was started in the main thread: the kernel looks at the thread that did it.

    Args:
        name: the program, a name on the PATH or a path.
        folder: the experiment's folder, absolute.
        config_file: the configuration, relative to `folder`.
        options: further options, such as overrides.
        pass_on_log: whether what it writes goes to this process's stdout, too.

    Attributes:
        address: where it is told to listen, `host:port`.

    Raises:
        EngineUnavailable: there is no such program, or it cannot be started.
    """

    def __init__(
        self, name: str, folder: Path, config_file: str, options: Sequence[str] = (), *, pass_on_log: bool = False
    ) -> None:
        path = find_program(name)
        if path is None:
            raise EngineUnavailable(f"the original nrp-core is needed, and {not_found(name)}")
        self._port = _free_port()
        self.address = f"{HOST}:{self._port}"
        self._mark = uuid.uuid4().hex
        self._look_at = 0.0
        server = ["-m", "server", "--server_address", self.address, "--logoutput=all", f"--logfilename={LOG}"]
        start = start_bound if threading.current_thread() is threading.main_thread() else subprocess.Popen
        try:
            self._log = ConsoleLog(folder)
            with self._log.open() as output:
                self._process = start(
                    [path, "-c", config_file, *server, *options],
                    cwd=folder,
                    env={**os.environ, MARK: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise EngineUnavailable(f"{path} cannot be started in {folder}: {error}") from error
        if pass_on_log:
            self._log.pass_on()

    @property
    def has_ended(self) -> bool:
        """Whether the program itself has ended; its engines may still be there."""
        return self._process.poll() is not None

    def check_start(self, *, closely: bool = False) -> None:
        """See whether it still makes sense to wait until it can be reached.

        Args:
            closely: look now at who listens at its address, not only once a second.

        Raises:
            AddressTaken: somebody else listens at its address, or did when it wanted to.
            CoreLost: it has ended.
        """
        code = self._process.poll()
        if code is not None:
            fate = f"NRPCoreSim {processes.describe_end(code)}{self.last_words()}"
            raise AddressTaken(fate) if self._had_no_address() else CoreLost(fate)
        if closely or time.monotonic() > self._look_at:
            self._look_at = time.monotonic() + LOOK_INTERVAL_S
            if self._is_somebody_elses():
                raise AddressTaken(f"Somebody else listens at {self.address}, which NRPCoreSim was to have")

    def await_end(self) -> str | None:
        """How it ended, in words, when its connection broke because of that; None when it runs on."""
        with suppress(subprocess.TimeoutExpired):
            return processes.describe_end(self._process.wait(DYING_S))
        return None

    def last_words(self) -> str:
        """The end of its log, introduced; "" when it is empty."""
        return self._log.last_words()

    def end(self) -> None:
        """End it and all that it has started: it itself in order, what is left then by force."""
        below = _descendants(self._process.pid)
        try:
            self._process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(ENDING_S)
        finally:
            processes.end_all(lambda: self._left(below))
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(processes.END_TIMEOUT_S)
            self._log.close()

    def _left(self, below: Iterable[psutil.Process]) -> set[int]:
        """The ids of what runs of it, and of those that were below it: an engine need not inherit the mark."""
        still_below = {each.pid for each in below if each.is_running() and not processes.has_ended(each.pid)}
        return still_below.union(processes.marked([self._mark], MARK))

    # -- its address ---------------------------------------------------------------------------------------------------

    def _had_no_address(self) -> bool:
        """Whether a program that has ended did so because its address was taken."""
        if _ADDRESS_IN_USE.search(self.last_words()):
            return True
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, self._port))
            except OSError:
                return True
        return False

    def _is_somebody_elses(self) -> bool:
        """Whether a process that this program has nothing to do with listens at its address.

        Two gRPC servers can share an address, and say nothing. That is seen by the mark of another program, or by an
        older age. No more is asked: the program may be a script that has it run in a container, below somebody else.
        """
        import psutil  # see _descendants

        with suppress(psutil.Error):
            born = psutil.Process(self._process.pid).create_time()
            for listener in _listeners(self._port):
                mark = processes.mark_of(listener.pid, MARK)
                if mark != self._mark and (mark is not None or listener.create_time() < born):
                    return True
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _descendants(pid: int) -> list[psutil.Process]:
    import psutil  # takes a while, for which simulations without NRPCoreSim need not wait

    with suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def _listeners(port: int) -> Iterator[psutil.Process]:
    """The processes that listen at this port of `HOST`, as far as this user may know."""
    import psutil  # see _descendants

    for connection in psutil.net_connections("tcp"):
        is_here = connection.laddr and connection.laddr.port == port and connection.laddr.ip in _REACHED_BY_HOST
        if is_here and connection.status == psutil.CONN_LISTEN and connection.pid is not None:
            with suppress(psutil.NoSuchProcess):
                yield psutil.Process(connection.pid)
