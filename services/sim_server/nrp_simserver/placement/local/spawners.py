"""The spawners of a launcher: the one that starts new servers, and those of earlier launchers that still have some."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nrp_common.errors import SettingsError
from nrp_simserver.placement.local.code_version import code_version
from nrp_simserver.placement.local.spawner_connection import THE_SPAWNER, SpawnerConnection, SpawnerUnavailable
from nrp_simserver.placement.local.spawner_folder import SpawnerFolder, identity_of, spawner_environment
from nrp_simserver.placement.local.spawner_protocol import Dismiss, Prepare, Retire, Signal, Spawn, to_line
from nrp_simserver.placement.placement import Listener
from nrp_simserver.server_end import describe_exit
from nrp_simserver.simulation_folder import ServerSetup

log = logging.getLogger(__name__)

READY_TIMEOUT_S: Final = 30.0
"""How long an order waits for a spawner that is starting; on a busy machine imports take seconds."""

EARLIER_ANSWER_WITHIN_S: Final = 5.0
"""How long a spawner that is found has to say what it is, before a new one is started beside it."""

RESTART_DELAYS_S: Final = (0.0, 1.0, 5.0, 30.0)
"""Between the death of a spawner and the start of the next; the further ones when it never became ready."""

CHECK_TIMEOUT_S: Final = 60.0

MODULE: Final = "nrp_simserver.placement.local.spawner"

_SAY_VERSION: Final = f"""\
import {MODULE}
from nrp_simserver.placement.local.code_version import code_version
print(code_version())
"""


class Spawners:
    """All spawners of a launcher's data directory.

    Args:
        directory: where each has its folder; made when missing.
        python: the interpreter that runs simulations, None for this one.
        preparation: what spawners are to prepare.
        listener: is told what they report.
        all_told: called once all spawners of earlier launchers told the listener of their servers.

    Raises:
        SettingsError: the interpreter cannot be used; says why.
    """

    def __init__(
        self,
        directory: Path,
        python: Path | None,
        preparation: Prepare,
        listener: Listener,
        all_told: Callable[[], None],
    ) -> None:
        self._directory = directory
        self._python = str(python or sys.executable)
        self._preparation = preparation
        self._listener = listener
        self._all_told = all_told
        self._environment = spawner_environment(os.environ)
        version = code_version() if python is None else version_run_by(python)
        self._identity = identity_of(self._python, version, self._environment)
        self._is_closing = threading.Event()
        self._changed = threading.Condition()  # guards the three below
        self._current: SpawnerConnection | None = None  # starts new servers
        self._connections: list[SpawnerConnection] = []
        self._untold: set[SpawnerConnection] = set()
        self._keeper = threading.Thread(target=self._keep_one_running, name="spawners", daemon=True)

    def start(self) -> None:
        """Find the spawners of earlier launchers, and have one that starts new servers; all in the background."""
        self._directory.mkdir(parents=True, exist_ok=True)
        earlier = [found for path in self._directory.iterdir() if (found := self._connect_to(path)) is not None]
        self._connections += earlier
        self._untold.update(earlier)
        if not earlier:
            self._all_told()
        for each in earlier:
            each.start()
        self._keeper.start()

    def reserve(self) -> str:
        """The incarnation for a new simulation server: that of an idle one, when there is one."""
        current = self._current
        return (current is not None and current.reserve()) or uuid.uuid4().hex

    def spawn(self, setup: ServerSetup) -> None:
        """Order a simulation server. Waits for a spawner that is starting.

        From now on the listener hears of the server's end, whatever ends it.

        Raises:
            SpawnerUnavailable: there is no spawner.
        """
        deadline = time.monotonic() + READY_TIMEOUT_S
        while (current := self._await_ready(deadline)) is not None:
            with suppress(SpawnerUnavailable):
                current.send(Spawn(setup=setup))
                return
            with self._changed:  # it has just died, and the next one is on its way
                self._changed.wait_for(lambda: self._current is not current, max(0.0, deadline - time.monotonic()))
        raise SpawnerUnavailable(f"{THE_SPAWNER} takes over {READY_TIMEOUT_S:g} s to start")

    def signal(self, incarnation: str, number: int) -> None:
        """Send a signal to a simulation server; nothing happens when it has ended."""
        for each in self._everybody():
            with suppress(SpawnerUnavailable):  # then its servers are gone, too
                each.send(Signal(incarnation=incarnation, number=number))

    @property
    def idle_pids(self) -> set[int]:
        """The process ids of all idle servers."""
        return {pid for each in self._everybody() for pid in each.idle_pids}

    def dismiss(self, incarnation: str) -> None:
        """Let a server go that was reserved, and is not needed after all."""
        if (current := self._current) is not None:
            with suppress(SpawnerUnavailable):
                current.send(Dismiss(incarnation=incarnation))

    def close(self) -> None:
        """End all spawners, and with them all servers."""
        self._part(SpawnerConnection.close)

    def leave(self) -> None:
        """Leave all spawners and servers to the next launcher."""
        self._part(SpawnerConnection.leave)

    def _part(self, goodbye: Callable[[SpawnerConnection], None]) -> None:
        self._is_closing.set()
        with self._changed:
            self._changed.notify_all()
        for each in self._everybody():
            goodbye(each)
        self._keeper.join()
        for each in self._everybody():  # one that was just being started
            goodbye(each)

    def _everybody(self) -> list[SpawnerConnection]:
        with self._changed:
            return self._connections.copy()

    def _await_ready(self, deadline: float) -> SpawnerConnection | None:
        with self._changed:
            self._changed.wait_for(self._is_ready, max(0.0, deadline - time.monotonic()))
            return self._current if self._is_ready() else None

    def _is_ready(self) -> bool:
        return self._current is not None and self._current.hello is not None

    # -- those of earlier launchers ------------------------------------------------------------------------------------

    def _connect_to(self, path: Path) -> SpawnerConnection | None:
        folder = SpawnerFolder(path)
        try:
            connection = folder.connect()
        except OSError:
            folder.remove()
            return None
        log.info("There is a spawner of an earlier launcher, in %s", path)
        return SpawnerConnection(folder, connection, None, self._listener, self)

    # -- the one that starts new servers -------------------------------------------------------------------------------

    def _keep_one_running(self) -> None:
        with self._changed:
            self._changed.wait_for(self._has_everybody_answered, EARLIER_ANSWER_WITHIN_S)
        failures = 0
        while not self._is_closing.wait(RESTART_DELAYS_S[min(failures, len(RESTART_DELAYS_S) - 1)]):
            try:
                current = self._current or self._start_one()
            except OSError as error:
                failures += 1
                log.error("%s cannot be started: %s", THE_SPAWNER, error)
                continue
            current.wait_until_gone()
            failures = 0 if current.hello is not None else failures + 1

    def _has_everybody_answered(self) -> bool:
        return self._is_closing.is_set() or all(each.hello is not None for each in self._connections)

    def _start_one(self) -> SpawnerConnection:
        folder = SpawnerFolder(self._directory / uuid.uuid4().hex)
        with folder.listen() as listener, folder.log.open("ab") as spawner_log:
            connection = folder.connect()
            connection.sendall(to_line(self._preparation))
            try:
                process = subprocess.Popen(
                    # -P: what lies in the launcher's working directory must not be imported
                    [self._python, "-P", "-m", MODULE, folder.path, self._identity, str(listener.fileno())],
                    stdin=subprocess.DEVNULL,
                    stdout=spawner_log,
                    stderr=spawner_log,
                    env=self._environment,
                    pass_fds=[listener.fileno()],
                    start_new_session=True,
                )
            except OSError:
                connection.close()
                folder.remove()
                raise
        started = SpawnerConnection(folder, connection, process, self._listener, self)
        with self._changed:
            self._connections.append(started)
            self._current = started
        started.start()
        return started

    # -- what they say of themselves -----------------------------------------------------------------------------------

    def spawner_said_hello(self, connection: SpawnerConnection) -> None:
        """It is ready: to start new servers, when none does yet and it is what would be started now."""
        hello = connection.hello
        assert hello is not None
        with self._changed:
            was_found = self._current is not connection
            if self._current is None and hello.identity == self._identity and not hello.is_retired:
                self._current = connection
            is_current = self._current is connection
            self._changed.notify_all()
        if was_found:
            with suppress(SpawnerUnavailable):
                connection.send(self._preparation if is_current else Retire())
        if not is_current:
            log.info("Spawner %d is of another code or environment: it starts no more servers", hello.pid)

    def spawner_told_all(self, connection: SpawnerConnection) -> None:
        """The listener knows of all its servers."""
        with self._changed:
            was_last = self._untold == {connection}
            self._untold.discard(connection)
        if was_last:
            self._all_told()

    def spawner_is_gone(self, connection: SpawnerConnection) -> None:
        """It has ended."""
        with self._changed:
            self._connections.remove(connection)
            if self._current is connection:
                self._current = None
            self._changed.notify_all()


def version_run_by(python: Path) -> str:
    """The version of our code that another interpreter runs.

    Raises:
        SettingsError: it cannot run simulations; says why.
    """
    try:
        attempt = subprocess.run(
            [python, "-P", "-c", _SAY_VERSION],
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
    return attempt.stdout.strip()
