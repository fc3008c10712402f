"""The archives of a simulation, its logs and its results, fetched from where they are stored."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from nrp_common.bus import Bus
from nrp_common.errors import CommandTimeout, StoredFileNotFound
from nrp_common.experiment_files import checked_experiment_id, checked_path
from nrp_common.messages import PENDING, ArchiveKind, Collect, Refusal
from nrp_common.storage_client import StorageClient
from nrp_common.topics import Topics
from nrp_gateway.catalogue import SimulationRecord
from nrp_gateway.errors import NotThere, Unreachable
from nrp_gateway.presences import Presences

COLLECTED_WITHIN_S: Final = 25.0
"""The launcher has to zip and upload first."""

CHUNK: Final = 1 << 18
"""Bytes read at once."""


class Archives:
    """Fetches archives.

    Args:
        bus: to ask launchers for what is not stored yet.
        presences: of launchers.
        topics: of this installation.
        storage: where archives are stored, or the folder of this gateway's own storage.
    """

    def __init__(self, bus: Bus, presences: Presences, topics: Topics, storage: StorageClient | Path) -> None:
        self._bus = bus
        self._presences = presences
        self._topics = topics
        self._storage = storage

    def open(self, record: SimulationRecord, kind: ArchiveKind, token: str | None) -> tuple[str, Iterator[bytes]]:
        """The name and the content of an archive, piece by piece; of a running simulation as it is now.

        Raises:
            NotThere: there is nothing.
            Unreachable: the launcher that has it is not there, or cannot hand it out.
            CommandTimeout: the launcher that has it does not answer.
            BusUnavailable: the broker cannot be reached.
            StorageError: the storage does not give it.
        """
        stored = record.logs if kind is ArchiveKind.LOGS else record.results
        is_stored = record.state.is_final and stored != PENDING
        name = stored if is_stored else self._collect(record, kind)
        if name is None:
            raise _nothing(record, kind)
        try:
            return name, self._read(record.experiment_id, checked_path(name), token)
        except (StoredFileNotFound, FileNotFoundError) as error:
            raise _nothing(record, kind) from error

    def _read(self, experiment_id: str, name: str, token: str | None) -> Iterator[bytes]:
        if isinstance(self._storage, StorageClient):
            return self._storage.with_token(token).open(experiment_id, name)
        return _pieces(self._storage / checked_experiment_id(experiment_id) / name)

    def _collect(self, record: SimulationRecord, kind: ArchiveKind) -> str | None:
        if self._bus.is_connected and not self._presences.has_launcher(record.launcher):
            raise Unreachable(f"The launcher '{record.launcher}', which has the {kind}, is not connected")
        request = Collect(simulation_id=record.id, kind=kind, deadline=time.time() + COLLECTED_WITHIN_S)
        try:
            reply = self._bus.request(self._topics.collect(record.launcher), request, timeout=COLLECTED_WITHIN_S)
        except CommandTimeout as error:
            raise CommandTimeout(
                f"The launcher '{record.launcher}' did not hand out the {kind} of simulation {record.id} "
                f"within {COLLECTED_WITHIN_S:g} s"
            ) from error
        if reply.error is not None and reply.refusal is not Refusal.UNKNOWN:
            raise Unreachable(f"The launcher '{record.launcher}' cannot hand out the {kind}: {reply.error}")
        return reply.archive


def _pieces(path: Path) -> Iterator[bytes]:
    opened = path.open("rb")  # at once, so that a file that is not there is noticed before the answer begins

    def read() -> Iterator[bytes]:
        with opened:
            while piece := opened.read(CHUNK):
                yield piece

    return read()


def _nothing(record: SimulationRecord, kind: ArchiveKind) -> NotThere:
    return NotThere(f"Simulation {record.id} has no {kind}")
