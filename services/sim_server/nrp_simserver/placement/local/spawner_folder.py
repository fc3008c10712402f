"""Where a spawner is found: its folder in the launcher's data directory, with its socket and its log."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nrp_simserver import processes

SOCKET: Final = "socket"

SECRETS: Final = ("NRP_SECRET_KEY", "NRP_MQTT_PASSWORD", "NRP_METRICS_TOKEN", "NRP_CATALOGUE_URL", "NRP_TOKEN")
"""Settings of the services that a simulation must not find in its environment, nor the names of their files."""

PASSING: Final = ("INVOCATION_ID", "JOURNAL_STREAM", "OLDPWD", "PWD", "SHLVL", "SYSTEMD_EXEC_PID", "_")
"""Variables that differ from start to start and mean nothing to a simulation."""


@dataclass(frozen=True)
class SpawnerFolder:
    """The folder of one spawner.

    Attributes:
        path: the folder.
    """

    path: Path

    @property
    def log(self) -> Path:
        """What the spawner writes, and its servers as long as they have no simulation."""
        return self.path / "spawner.log"

    def listen(self) -> socket.socket:
        """Make the folder, and a socket in it that waits for launchers.

        Raises:
            OSError: there can be no socket on this file system; names the place.
        """
        self.path.mkdir(mode=0o700, parents=True)
        listener = socket.socket(socket.AF_UNIX)
        try:
            with self._socket_address() as address:
                listener.bind(address)
        except OSError as error:
            listener.close()
            self.remove()
            raise OSError(error.errno, error.strerror, str(self.path / SOCKET)) from error
        listener.listen()
        return listener

    def connect(self) -> socket.socket:
        """A connection to the spawner.

        Raises:
            OSError: there is no spawner.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            with self._socket_address() as address:
                connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection

    @contextmanager
    def _socket_address(self) -> Iterator[str]:
        # Of an address only 107 bytes count, which the paths of many data directories exceed.
        folder = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            yield f"/proc/self/fd/{folder}/{SOCKET}"
        finally:
            os.close(folder)

    def remove(self) -> None:
        """Delete the folder of a spawner that has ended."""
        shutil.rmtree(self.path, ignore_errors=True)


def spawner_environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a spawner and so of simulations, from a launcher's own."""
    kept_back = {*SECRETS, *(f"{name}_FILE" for name in SECRETS), *PASSING}
    environment = {name: value for name, value in own.items() if name not in kept_back}
    return environment | {"OPENBLAS_NUM_THREADS": "1", processes.MARK: processes.UNMARKED}


def identity_of(python: str, code_version: str, environment: Mapping[str, str]) -> str:
    """What spawners have in common that can take each other's place: interpreter, code and environment."""
    digest = hashlib.sha256(f"{python}\0{code_version}".encode())
    for name in sorted(environment):
        digest.update(f"\0{name}={environment[name]}".encode(errors="surrogateescape"))
    return digest.hexdigest()
