"""The archives of one simulation on their way from its folder into the experiment."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from nrp_common import tracing
from nrp_common.messages import PENDING, ArchiveKind, Archives
from nrp_common.storage_client import StorageClient
from nrp_simserver.launcher.archives import Snapshot, archive_name, files_of, write_archive
from nrp_simserver.launcher.simulation_record import SimulationRecord, read_snapshot
from nrp_simserver.launcher.spool import Manifest, Spool
from nrp_simserver.resources.disk_use import DISK_MEGABYTE, DiskUse
from nrp_simserver.simulation_folder import SimulationFolder

log = logging.getLogger(__name__)

WRITE_AGAIN_AFTER_S: Final = 30.0
"""When the archives could not be written: a full disk is emptied by hand."""


class _Outcome:
    """What came of storing archives: told to whoever waits, or later to whom it concerns."""

    def __init__(self) -> None:
        self._known = threading.Condition()
        self._is_attempted = False
        self._is_waited_for = True
        self._archives = Archives(logs=PENDING, results=PENDING)

    def wait(self, timeout: float) -> Archives:
        """The archives once they are stored, or could not be stored, or `timeout` seconds have passed."""
        with self._known:
            self._known.wait_for(lambda: self._is_attempted, timeout)
            self._is_waited_for = False
            return self._archives

    def settle(self, archives: Archives, *, is_final: bool) -> bool:
        """Note what is known now. Returns whether somebody still waits for it."""
        with self._known:
            self._archives = archives
            self._is_attempted = is_final
            self._known.notify_all()
            return self._is_waited_for


class Archiving:
    """Stores what a simulation leaves: while it runs what there is so far, at its end all.

    Attributes:
        cloned: what the experiment was when the simulation began, None when it did not begin.
        may_leave_out_results: whether results are deleted that there is no room for: the simulation took too much.
    """

    def __init__(
        self,
        record: SimulationRecord,
        folder: SimulationFolder,
        spool: Spool,
        storage_for: Callable[[str], StorageClient],
        disk: DiskUse,
    ) -> None:
        self.cloned: Snapshot | None = read_snapshot(folder)
        self.may_leave_out_results = False
        self._disk = disk
        self._record = record
        self._folder = folder
        self._spool = spool
        self._storage_for = storage_for
        self._lock = threading.Lock()  # held while archives are written from the simulation's folder
        self._is_safe = threading.Event()  # nothing in the folder is needed any more
        self._archives = Archives()  # the final ones, from then on
        self._outcome = _Outcome()

    # -- while it runs -------------------------------------------------------------------------------------------------

    def collect(self, kind: ArchiveKind) -> str | None:
        """Put the logs or results so far into the experiment; the final archive replaces them.

        Returns:
            The archive's name, None when there is nothing to put into it: before the experiment is cloned, too.

        Raises:
            StorageError: the Storage Server does not take it.
            OSError: it cannot be written.
        """
        launch = self._record.launch
        with self._lock:
            if self.cloned is None:
                return None
            if not self._is_safe.is_set():
                name = archive_name(launch.simulation_id, kind, None)
                with tempfile.TemporaryDirectory(dir=self._folder.path, prefix="collected-") as folder:
                    archive = Path(folder) / name
                    write_archive(archive, files_of(kind, self._folder, self.cloned))
                    if not archive.exists():
                        return None
                    self._note_collected(name)
                    self._storage_for(launch.sealed_token).write(launch.experiment_id, name, archive)
                return name
        self._spool.store(launch.simulation_id)  # unless it is stored already
        return self._archives.of(kind)

    def _note_collected(self, name: str) -> None:
        if name not in self._record.collected:
            self._record.collected.append(name)
            self._record.write(self._folder)

    # -- at its end ----------------------------------------------------------------------------------------------------

    def store(self, within_s: float, stored_late: Callable[[Archives], None]) -> Archives:
        """Store logs and results, once the simulation has ended.

        Args:
            within_s: how long to wait for that, in seconds; it goes on in the background.
            stored_late: called from another thread when the first attempt succeeds after that time. Further attempts
                are the spool's, which tells its owner.

        Returns:
            The archives' names, `PENDING` in the place of those that are not stored yet.
        """
        name = f"archive {self._record.launch.simulation_id}"
        threading.Thread(target=self._store, args=(stored_late,), name=name, daemon=True).start()
        return self._outcome.wait(within_s)

    @property
    def is_safe(self) -> bool:
        """Whether nothing in the simulation's folder is needed any more."""
        return self._is_safe.is_set()

    def wait_until_safe(self) -> None:
        """Wait until nothing in the simulation's folder is needed any more: as long as a full disk takes."""
        self._is_safe.wait()

    def _store(self, stored_late: Callable[[Archives], None]) -> None:
        tracing.enter(self._record.launch.context)
        archives = self._spool_all()
        simulation_id = self._record.launch.simulation_id
        self._outcome.settle(_pending(archives), is_final=False)
        try:
            self._spool.store(simulation_id)
        except Exception as error:  # noqa: BLE001  whatever it is, it may pass, and must not lose an archive
            self._spool.try_again_later(simulation_id, error)
            archives = _pending(archives)
        if not self._outcome.settle(archives, is_final=True) and archives != _pending(archives):
            stored_late(archives)

    def _spool_all(self) -> Archives:
        """Write the archives into the spool, for as long as it takes."""
        while True:
            try:
                with self._lock:
                    self._archives = self._write_all()
                    self._is_safe.set()
                return self._archives
            except Exception:
                log.exception(
                    "The archives of simulation %d cannot be written. The next attempt is in %g s",
                    self._record.launch.simulation_id,
                    WRITE_AGAIN_AFTER_S,
                )
                threading.Event().wait(WRITE_AGAIN_AFTER_S)

    def _write_all(self) -> Archives:
        launch = self._record.launch
        if (spooled := self._spool.manifest(launch.simulation_id)) is not None:  # by an earlier launcher
            return spooled.archives
        if self._record.archives is not None:  # stored by an earlier launcher
            return self._record.archives
        if self.cloned is None and not self._folder.log.exists():  # nothing happened
            return Archives()
        if self.may_leave_out_results and self.cloned is not None:
            self._leave_out_results_without_room(self.cloned)
        folder = self._spool.folder_for(launch.simulation_id)
        names: dict[ArchiveKind, str] = {}
        for kind in ArchiveKind if self.cloned is not None else (ArchiveKind.LOGS,):
            name = archive_name(launch.simulation_id, kind, self._record.launched_at)
            for fault in write_archive(folder / name, files_of(kind, self._folder, self.cloned or {})):
                log.warning("Left out of %s: %s", name, fault)
            if (folder / name).exists():
                names[kind] = name
        archives = Archives(logs=names.get(ArchiveKind.LOGS), results=names.get(ArchiveKind.RESULTS))
        manifest = Manifest(
            simulation_id=launch.simulation_id,
            experiment_id=launch.experiment_id,
            owner=launch.owner,
            sealed_token=launch.sealed_token,
            archives=archives,
            waiting=list(names),
            obsolete=self._record.collected,
        )
        self._spool.put(manifest)
        self._record.archives = archives
        self._record.keep(self._folder)
        return archives

    def _leave_out_results_without_room(self, cloned: Snapshot) -> None:
        results = list(files_of(ArchiveKind.RESULTS, self._folder, cloned))
        size = sum(file.path.stat().st_size for file in results)
        if self._disk.has_room_for(size):
            return
        for file in results:
            file.path.unlink(missing_ok=True)
        with suppress(OSError), self._folder.append_to_log() as own_log:  # the experiment may have taken it away
            own_log.write(f"The results, {size // DISK_MEGABYTE} MB, are not kept: the disk has no room for them\n")


def _pending(archives: Archives) -> Archives:
    return Archives(logs=archives.logs and PENDING, results=archives.results and PENDING)
