"""Archives on their way into the Storage Server: safe on this machine's disk until it has taken them.

A folder a simulation, with its archives and a manifest. Whatever happens to the storage, the launcher or the machine,
an archive stays until it is stored: there is no number of attempts after which it is given up.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Final, Protocol

from pydantic import BaseModel, ValidationError

from nrp_common import tracing
from nrp_common.errors import ExperimentNotFound, InvalidToken, StorageForbidden
from nrp_common.messages import ArchiveKind, Archives

log = logging.getLogger(__name__)

FIRST_RETRY_AFTER_S: Final = 1.0
"""After a failed attempt; doubled with each further one."""

RETRY_AT_LATEST_AFTER_S: Final = 60.0

RETRY_WHEN_REFUSED_AFTER_S: Final = 600.0
"""When the experiment was deleted, or may no longer be written: until somebody changes that."""

MANIFEST: Final = "manifest.json"


class Storage(Protocol):
    """What is asked of the Storage Server: see `nrp_common.storage_client.StorageClient`."""

    def write(self, experiment_id: str, path: str, data: Path) -> None:
        """Store a file, replacing what was there."""

    def delete_file(self, experiment_id: str, path: str) -> None:
        """Delete a file; nothing happens when it is not there."""


class Manifest(BaseModel):
    """What the folder of a simulation in the spool is about.

    Attributes:
        simulation_id: of the simulation.
        experiment_id: into which the archives go.
        owner: of the simulation.
        sealed_token: the owner's, encrypted, as it was at the launch.
        archives: what they are called, None for one that there is not.
        waiting: the kinds that are not stored yet.
        obsolete: names of files in the experiment that these archives replace.
    """

    simulation_id: int
    experiment_id: str
    owner: str
    sealed_token: str = ""
    archives: Archives
    waiting: list[ArchiveKind]
    obsolete: list[str] = []


class Spool:
    """All archives that wait for the Storage Server, and the thread that tries again.

    Args:
        directory: made when missing.
        storage_for: the Storage Server for the owner of a sealed token.
        stored_late: called in the spool's thread when a further attempt has stored a simulation's archives.
        upload: each upload of an archive is made in such a context.
    """

    def __init__(
        self,
        directory: Path,
        storage_for: Callable[[str], Storage],
        stored_late: Callable[[int, Archives], None],
        upload: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self._directory = directory
        self._storage_for = storage_for
        self._stored_late = stored_late
        self._upload = upload
        self._newest_tokens: dict[str, str] = {}
        self._changed = threading.Condition()  # guards the three below
        self._due: dict[int, float] = {}
        self._refused: dict[int, str] = {}  # the owners of those that wait for somebody to change something
        self._is_closing = False
        self._delays: dict[int, float] = {}
        self._in_use: dict[int, threading.Lock] = {}
        self._thread = threading.Thread(target=self._try_again, name="spool", daemon=True)
        directory.mkdir(parents=True, exist_ok=True)
        for folder in directory.iterdir():
            # What an earlier launcher did not finish writing is still in the simulation's folder.
            if not (folder / MANIFEST).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Begin to store what an earlier launcher left."""
        with self._changed:
            for folder in self._directory.iterdir():
                if folder.name.isdecimal():
                    self._due[int(folder.name)] = time.monotonic()
        self._thread.start()

    def close(self) -> None:
        """Try no more. What is waiting stays for the next launcher."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()

    def folder_for(self, simulation_id: int) -> Path:
        """Where a simulation's archives are to be written, before they are handed over by `put`."""
        folder = self._folder(simulation_id)
        folder.mkdir(parents=True, exist_ok=True)  # who emptied the disk by hand may have taken the spool away, too
        return folder

    def put(self, manifest: Manifest) -> None:
        """Take over the archives in a simulation's folder. When this returns they are safe."""
        self._write(manifest)
        _sync(self._directory)

    def learn_token(self, owner: str, sealed_token: str) -> None:
        """Use this token for all archives of `owner` from now on: it is newer than those in the manifests.

        Those that the Storage Server refused are tried again at once.
        """
        with self._changed:
            self._newest_tokens[owner] = sealed_token
            for simulation_id in [each for each, its_owner in self._refused.items() if its_owner == owner]:
                del self._refused[simulation_id]
                self._due[simulation_id] = time.monotonic()
            self._changed.notify()

    def manifest(self, simulation_id: int) -> Manifest | None:
        """What a simulation has in the spool, None when it has nothing."""
        try:
            return Manifest.model_validate_json((self._folder(simulation_id) / MANIFEST).read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            log.error("%s cannot be read and is left alone: %s", self._folder(simulation_id) / MANIFEST, error)
            return None

    def waiting(self) -> tuple[int, int]:
        """How many simulations have archives that wait, and what these take on the disk, in bytes."""
        simulations = size = 0
        for folder in self._directory.iterdir() if self._directory.exists() else ():
            simulations += 1
            with suppress(OSError):  # stored, and taken away, meanwhile
                size += sum(file.stat().st_size for file in folder.iterdir())
        return simulations, size

    def store(self, simulation_id: int) -> Archives | None:
        """Store a simulation's archives.

        Returns:
            What they are called, or None when there is nothing in the spool, be it because it was stored before.

        Raises:
            StorageError: it did not work; they stay in the spool.
        """
        with self._in_use.setdefault(simulation_id, threading.Lock()):
            manifest = self.manifest(simulation_id)
            if manifest is None:
                return None
            storage = self._storage_for(self._newest_tokens.get(manifest.owner, manifest.sealed_token))
            for kind in list(manifest.waiting):
                name = manifest.archives.of(kind)
                assert name is not None, "only what there is waits"
                with self._upload():
                    storage.write(manifest.experiment_id, name, self._folder(simulation_id) / name)
                manifest.waiting.remove(kind)
                self._write(manifest)
            for name in manifest.obsolete:
                storage.delete_file(manifest.experiment_id, name)
            shutil.rmtree(self._folder(simulation_id))
            self._delays.pop(simulation_id, None)
            self._in_use.pop(simulation_id, None)
            return manifest.archives

    def try_again_later(self, simulation_id: int, error: Exception) -> None:
        """Have the spool's thread store a simulation's archives, after `error` came of an attempt."""
        is_refused = isinstance(error, StorageForbidden | ExperimentNotFound | InvalidToken)
        if is_refused:
            delay = RETRY_WHEN_REFUSED_AFTER_S
            log.error(
                "The archives of simulation %d were refused (%s). They stay in %s; the next attempt is in %g s",
                simulation_id,
                error,
                self._folder(simulation_id),
                delay,
            )
        else:
            delay = self._delays.get(simulation_id, FIRST_RETRY_AFTER_S)
            self._delays[simulation_id] = min(2 * delay, RETRY_AT_LATEST_AFTER_S)
            log.warning(
                "The archives of simulation %d are not stored yet (%s). The next attempt is in %g s",
                simulation_id,
                error,
                delay,
            )
        manifest = self.manifest(simulation_id)
        with self._changed:
            if is_refused and manifest is not None:
                self._refused[simulation_id] = manifest.owner
            self._due[simulation_id] = time.monotonic() + delay
            self._changed.notify()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _try_again(self) -> None:
        while (simulation_id := self._next_due()) is not None:
            with tracing.within(tracing.Context(simulation=simulation_id)):
                try:
                    archives = self.store(simulation_id)
                except Exception as error:  # noqa: BLE001  whatever it is, it may pass, and must not lose an archive
                    self.try_again_later(simulation_id, error)
                else:
                    if archives is not None:
                        log.info("The archives of simulation %d are stored now", simulation_id)
                        self._stored_late(simulation_id, archives)

    def _next_due(self) -> int | None:
        with self._changed:
            while not self._is_closing:
                soonest = min(self._due, key=self._due.__getitem__, default=None)
                if soonest is None:
                    self._changed.wait()
                elif (delay := self._due[soonest] - time.monotonic()) > 0:
                    self._changed.wait(delay)
                else:
                    del self._due[soonest]
                    self._refused.pop(soonest, None)
                    return soonest
        return None

    # -- the disk ------------------------------------------------------------------------------------------------------

    def _folder(self, simulation_id: int) -> Path:
        return self._directory / str(simulation_id)

    def _write(self, manifest: Manifest) -> None:
        folder = self._folder(manifest.simulation_id)
        new = folder / f"{MANIFEST}.new"
        with new.open("w") as file:
            file.write(manifest.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        new.replace(folder / MANIFEST)
        _sync(folder)


def _sync(directory: Path) -> None:
    """Have the names in a directory survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
