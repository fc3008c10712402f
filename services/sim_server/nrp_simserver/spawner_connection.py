"""The launcher's end of its spawner: starts it, gives orders, hands on reports, and replaces it when it dies."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from nrp_common.errors import NRPError, SettingsError
from nrp_simserver import processes
from nrp_simserver.simulation_folder import ServerSetup
from nrp_simserver.spawner import REPORT, Ended, NotSpawned, Ready, Signal, Spawn, Spawned, to_line

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 30.0
"""How long an order waits for a spawner that is starting; on a busy machine imports take seconds."""

END_TIMEOUT_S: Final = 5.0
"""How long the spawner may take to end, before it is killed."""

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Between the death of a spawner and the start of the next; the further ones when it never became ready."""

SECRETS: Final = ("NRP_SECRET_KEY", "NRP_MQTT_PASSWORD")
"""Settings of the services that a simulation must not find in its environment."""

CHECK_TIMEOUT_S: Final = 60.0


class SpawnerUnavailable(NRPError):
    """The process that forks simulation servers is not there."""


class Listener(Protocol):
    """Who is told what the spawner reports. Called in the connection's thread: must not take long."""

    def server_spawned(self, incarnation: str, pid: int, spawner: int) -> None:
        """A simulation server runs: its process, and that of the spawner it is below."""

    def server_ended(self, incarnation: str, how: str) -> None:
        """A simulation server has ended, or could not be started: `how` says it in a sentence."""


class SpawnerConnection:
    """The launcher's spawner, whichever process that is at the moment.

    Args:
        python: the interpreter that runs simulations, None for this one.
        listener: is told what the spawner reports.

    Raises:
        SettingsError: the interpreter cannot be used; says why.
    """

    def __init__(self, python: Path | None, listener: Listener) -> None:
        if python is not None:
            check_interpreter(python)
        self._python = str(python or sys.executable)
        self._listener = listener
        self._lock = threading.Lock()  # guards what is sent, the process, and what is asked of it
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._ordered: set[str] = set()  # the servers that are to end with this process at the latest
        self._is_ready = threading.Event()
        self._is_closing = threading.Event()
        self._reader = threading.Thread(target=self._keep_one_running, name="spawner", daemon=True)

    def start(self) -> None:
        """Start the first spawner, in the background."""
        self._reader.start()

    def spawn(self, setup: ServerSetup) -> None:
        """Order a simulation server. Waits for a spawner that is starting.

        From now on the listener hears of the server's end, whatever ends it.

        Raises:
            SpawnerUnavailable: there is none.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while self._is_ready.wait(max(0.0, deadline - time.monotonic())):
            try:
                self._send(Spawn(setup=setup))
            except SpawnerUnavailable:  # it has just died; the next one is on its way
                continue
            return
        raise SpawnerUnavailable(f"The process that forks simulation servers takes over {READY_TIMEOUT_S:g} s to start")

    def signal(self, incarnation: str, number: int) -> None:
        """Send a signal to a simulation server; nothing happens when it has ended."""
        with suppress(SpawnerUnavailable):  # then its servers are gone, too
            self._send(Signal(incarnation=incarnation, number=number))

    def close(self) -> None:
        """End the spawner, and with it all its servers."""
        self._is_closing.set()
        with self._lock:
            if self._socket is not None:
                with suppress(OSError):  # it has just died
                    self._socket.shutdown(socket.SHUT_WR)
        self._reader.join(END_TIMEOUT_S)
        if self._reader.is_alive() and self._process is not None:
            log.error("The spawner (process %d) does not end, it is killed", self._process.pid)
            self._process.kill()
            self._reader.join(END_TIMEOUT_S)

    def _send(self, order: Spawn | Signal) -> None:
        with self._lock:
            if self._socket is None:
                raise SpawnerUnavailable
            try:
                self._socket.sendall(to_line(order))
            except OSError as error:
                self._socket = None
                self._is_ready.clear()
                raise SpawnerUnavailable from error
            if isinstance(order, Spawn):
                self._ordered.add(order.setup.incarnation)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _keep_one_running(self) -> None:
        failures = 0
        while not self._is_closing.wait(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]):
            try:
                connection = self._start_process()
            except OSError as error:
                failures += 1
                log.error("The process that forks simulation servers cannot be started: %s", error)
                continue
            was_ready = False
            with connection:
                for line in _lines(connection):
                    was_ready = True
                    self._hand_on(line)
            failures = 0 if was_ready else failures + 1
            self._bury_process()

    def _start_process(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
        environment |= {"OPENBLAS_NUM_THREADS": "1", processes.MARK: processes.UNMARKED}
        with theirs, self._lock:
            self._process = subprocess.Popen(
                # -P: what lies in the launcher's working directory must not be imported
                [self._python, "-P", "-m", "nrp_simserver.spawner", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                env=environment,
                pass_fds=[theirs.fileno()],
            )
            self._socket = ours
            if self._is_closing.is_set():
                ours.shutdown(socket.SHUT_WR)
        return ours

    def _bury_process(self) -> None:
        with self._lock:
            self._is_ready.clear()
            self._socket = None
            process, self._process = self._process, None
            lost, self._ordered = self._ordered, set()
        assert process is not None
        try:
            status = process.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        reason = f"The process that forks simulation servers {describe_exit(status)}"
        if not self._is_closing.is_set():
            log.error("%s", reason)
        for incarnation in lost:
            self._listener.server_ended(incarnation, reason)

    def _hand_on(self, line: bytes) -> None:
        match REPORT.validate_json(line):
            case Ready():
                self._is_ready.set()
            case Spawned(incarnation=incarnation, pid=pid):
                assert self._process is not None
                self._listener.server_spawned(incarnation, pid, self._process.pid)
            case NotSpawned(incarnation=incarnation, reason=reason):
                self._note_end(incarnation, f"The simulation server could not be started: {reason}")
            case Ended(incarnation=incarnation, exit_code=exit_code):
                self._note_end(incarnation, f"The simulation server {describe_exit(exit_code)}")

    def _note_end(self, incarnation: str, how: str) -> None:
        with self._lock:
            self._ordered.discard(incarnation)
        self._listener.server_ended(incarnation, how)


def _lines(connection: socket.socket) -> Iterator[bytes]:
    with suppress(ConnectionResetError), connection.makefile("rb") as stream:
        for line in stream:
            if line.endswith(b"\n"):  # else it died in the middle of it
                yield line


def describe_exit(exit_code: int) -> str:
    """How a process ended, in words to follow its name; a negative code is the number of the signal that killed it."""
    if exit_code >= 0:
        return f"ended with exit code {exit_code}"
    try:
        return f"was killed by {signal.Signals(-exit_code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-exit_code}"


def check_interpreter(python: Path) -> None:
    """Make sure that an interpreter can run simulations.

    Raises:
        SettingsError: it cannot; says why.
    """
    try:
        attempt = subprocess.run(
            [python, "-P", "-c", "import nrp_simserver.spawner, nrp_simserver.server"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except OSError as error:
        raise SettingsError(f"NRP_PYTHON={python} cannot be run: {error.strerror}") from error
    except subprocess.TimeoutExpired as error:
        raise SettingsError(f"NRP_PYTHON={python} did not import nrp_simserver in {CHECK_TIMEOUT_S:g} s") from error
    if attempt.returncode != 0:
        last_words = (attempt.stderr.strip().splitlines() or [describe_exit(attempt.returncode)])[-1]
        raise SettingsError(
            f"NRP_PYTHON={python} cannot run simulations, as it cannot import nrp_simserver: {last_words}. "
            "Install this distribution there, too"
        )
