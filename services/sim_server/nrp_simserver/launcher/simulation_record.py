"""What a launcher notes down about a simulation in its folder, for itself or for the launcher that comes after it."""

from __future__ import annotations

import json
import logging
import threading
from datetime import datetime
from typing import Self

from pydantic import BaseModel, PrivateAttr, ValidationError

from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import Archives, Launch, LifecycleMessage
from nrp_simserver.launcher.archives import Snapshot
from nrp_simserver.simulation_folder import SimulationFolder, read_note

log = logging.getLogger(__name__)

RECORD = "record.json"
SNAPSHOT = "snapshot.json"


class Intention(BaseModel):
    """That a launcher ends a simulation, whatever its server says of it afterwards.

    Attributes:
        event: `stopped` or `failed`.
        reason: why, None when its owner asked for it.
        may_wait: whether its server is left the time to end in order.
    """

    event: SimulationEvent
    reason: str | None = None
    may_wait: bool = False


class SimulationRecord(BaseModel):
    """A simulation that was launched here and whose folder is not freed yet.

    Attributes:
        launch: what was asked.
        incarnation: of its simulation server.
        launched_at: local time with its zone; names its archives.
        collected: names of the archives that were put into the experiment while it ran.
        archives: what the final ones are called, once they are safe: nothing else in the folder is needed any more.
        intention: that it is being ended, once it is.
        final: the final word, once it is known; then it is published as it is here.
    """

    launch: Launch
    incarnation: str
    launched_at: datetime
    collected: list[str] = []
    archives: Archives | None = None
    intention: Intention | None = None
    final: LifecycleMessage | None = None

    _writing: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    def write(self, folder: SimulationFolder) -> None:
        """Put this record into the simulation's folder, in place of the one that is there. From any thread."""
        new = folder.path / f"{RECORD}.new"
        with self._writing:
            new.write_text(self.model_dump_json())
            new.replace(folder.path / RECORD)

    def keep(self, folder: SimulationFolder) -> None:
        """Write it if that is possible: where it is not, no next launcher finds it either."""
        try:
            self.write(folder)
        except OSError as error:
            log.error("The record of simulation %d cannot be written: %s", self.launch.simulation_id, error)

    @classmethod
    def read(cls, folder: SimulationFolder) -> Self | None:
        """The record in a simulation's folder, None when it holds none."""
        try:
            return cls.model_validate_json(read_note(folder.path / RECORD))
        except (OSError, ValidationError):
            return None


def write_snapshot(folder: SimulationFolder, cloned: Snapshot) -> None:
    """Note down what the experiment was when the simulation began."""
    (folder.path / SNAPSHOT).write_text(json.dumps(cloned))


def read_snapshot(folder: SimulationFolder) -> Snapshot | None:
    """What the experiment was when the simulation began, None when it did not begin."""
    try:
        noted = json.loads(read_note(folder.path / SNAPSHOT))
    except (OSError, ValueError):
        return None
    return {name: (size, changed) for name, (size, changed) in noted.items()}
