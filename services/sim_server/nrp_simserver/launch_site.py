"""What all simulations of a launcher share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nrp_common.bus import Bus
from nrp_common.clone_cache import CloneCache
from nrp_common.storage_client import StorageClient
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.spawners import Spawners
from nrp_simserver.spool import Spool


@dataclass(frozen=True)
class LaunchSite:
    """What all simulations of a launcher share."""

    settings: LauncherSettings
    bus: Bus
    spawners: Spawners
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
