"""A launcher's handle on one simulation server: from the launch until the simulation's folder is freed."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from nrp_common.bus import Bus
from nrp_common.clone_cache import CloneCache
from nrp_common.errors import NRPError
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import (
    LifecycleMessage,
)
from nrp_common.storage_client import StorageClient
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder
from nrp_simserver.simulation_record import SimulationRecord
from nrp_simserver.spawner_connection import SpawnerConnection
from nrp_simserver.spool import Spool

log = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 1.0
"""Between two looks at a simulation's log and at whether it is ready."""

FINAL_WORD_AFTER_S: Final = 5.0
"""How long after the end of a simulation its final state waits for its archives to be stored."""

ARCHIVE_AGAIN_AFTER_S: Final = 30.0
"""When the archives could not be written: a full disk is emptied by hand."""

LAST_WORDS_LINES: Final = 10
LAST_WORDS_BYTES: Final = 2000
"""How much of a log's end goes into the reason of a failure."""


@dataclass(frozen=True)
class LaunchSite:
    """What all simulations of a launcher share."""

    settings: LauncherSettings
    bus: Bus
    spawner: SpawnerConnection
    spool: Spool
    clone_cache: CloneCache
    storage_for: Callable[[str], StorageClient]
    """The Storage Server for the owner of a sealed token."""
    servers: Callable[[], set[int]]
    """The process ids of all simulation servers that are running."""
    freed: Callable[[], None]
    """Called when nothing of a simulation runs any more, before its final word."""

    @property
    def node(self) -> str:
        """Who speaks the final word."""
        return f"nrp_launcher_{self.settings.launcher_name}"


# -- what an instance is told ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cloned:
    error: NRPError | OSError | None = None


@dataclass(frozen=True)
class _Ended:
    reason: str
    """How, in words."""


@dataclass(frozen=True)
class _StopAsked:
    reason: str | None = None
    """Why, when it was not the owner who asked."""
    tell_server: bool = False
    """Whether the server does not know yet."""
    grace_s: float | None = None


@dataclass(frozen=True)
class _Overruled:
    by: LifecycleMessage


_News = _Cloned | _Ended | _StopAsked | _Overruled


@dataclass(frozen=True)
class _Verdict:
    """How a simulation ended."""

    event: SimulationEvent
    reason: str | None = None


@dataclass
class _Course:
    """What an instance knows about the end of its simulation while it comes."""

    stop: _StopAsked | None = None
    kill_at: float = math.inf
    was_killed: bool = False
    failure: str | None = None
    """Why the launcher itself ended the simulation."""
    ended: _Ended | None = None


class SimulationServerInstance:
    """One simulation on this machine, and the thread that sees it through.

    Everything happens in that thread, in the order in which `run` says it; the others only tell it news.

    Attributes:
        record: what was asked, and what is noted down for the next launcher.
        folder: the simulation's.
        pid: the server's process id while it runs.
        has_server: whether there is, or is about to be, a server that answers commands.
        final: the final word, once it is spoken, be it by somebody else.
    """

    def __init__(self, record: SimulationRecord, folder: SimulationFolder, site: LaunchSite) -> None:
        self.record = record
        self.folder = folder
        self.pid: int | None = None
        self.has_server = False
        self.final: LifecycleMessage | None = record.final
        self._site = site
        self._topics = site.settings.topics
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._course = _Course()
        self._final_lock = threading.Lock()
        self._is_over = threading.Event()
        self._is_hurried = threading.Event()
        self._thread = threading.Thread(target=self.run, name=f"simulation {self.simulation_id}", daemon=True)

    @property
    def simulation_id(self) -> int:
        """Of the simulation."""
        return self.record.launch.simulation_id
