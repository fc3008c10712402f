"""What all simulations of a launcher share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nrp_common.bus import Bus
from nrp_common.clone_cache import CloneCache
from nrp_common.storage_client import StorageClient
from nrp_simserver.launcher.metrics import LauncherMetrics
from nrp_simserver.launcher.simulation_credentials import SimulationCredentials
from nrp_simserver.launcher.simulation_record import SimulationRecord
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.placement.placement import Placement, ServerOrder
from nrp_simserver.resources.cgroups import CgroupTree
from nrp_simserver.resources.disk_use import DiskUse
from nrp_simserver.resources.limits import LimitWatch, limits_in_force
from nrp_simserver.resources.process_table import ProcessTable
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder


@dataclass(frozen=True)
class LaunchSite:
    """What all simulations of a launcher share."""

    settings: LauncherSettings
    bus: Bus
    placement: Placement
    spool: Spool
    clone_cache: CloneCache
    storage_for: Callable[[str], StorageClient]
    """The Storage Server for the owner of a sealed token."""
    table: ProcessTable
    disk: DiskUse
    credentials: SimulationCredentials | None
    """Of simulations at the broker; None where they use the launcher's own."""
    cgroups: CgroupTree | None
    """Where simulations get one of their own."""
    freed: Callable[[], None]
    """Called when nothing of a simulation runs any more, before its final word."""
    metrics: LauncherMetrics

    @property
    def node(self) -> str:
        """Who speaks the final word."""
        return f"nrp_launcher_{self.settings.launcher_name}"

    def limits_of(self, record: SimulationRecord, folder: SimulationFolder) -> LimitWatch:
        """Watches over what a simulation uses."""
        limits = limits_in_force(self.settings, record.launch.wishes.limits)
        return LimitWatch(limits, folder, record.incarnation, self.table, self.disk, self.cgroups)

    def order_of(self, record: SimulationRecord, folder: SimulationFolder, limits: LimitWatch) -> ServerOrder:
        """The server of a simulation, with all that it needs."""
        return ServerOrder(self._setup_of(record, folder, limits), record.launch, limits.in_force)

    def _setup_of(self, record: SimulationRecord, folder: SimulationFolder, limits: LimitWatch) -> ServerSetup:
        """All that the server of a simulation needs, but for its credentials."""
        settings, launch = self.settings, record.launch
        return ServerSetup(
            **settings.bus_access_of_servers.model_dump(),
            credentials_in_folder=settings.keeps_credentials,
            simulation_id=launch.simulation_id,
            incarnation=record.incarnation,
            folder=folder.path,
            configuration=launch.configuration,
            main_script=launch.main_script,
            real_time_factor=launch.wishes.real_time_factor,
            status_interval_s=settings.status_interval_s,
            core=settings.core,
            engine_processes=settings.engine_processes,
            nrpcoresim=settings.nrpcoresim_options,
            owner=launch.owner,
            request_id=launch.request_id,
            traceparent=launch.traceparent,
            log_format=settings.log_format,
            cgroup=limits.cgroup,
            largest_file=limits.largest_file,
            most_tasks_of_user=limits.most_tasks_of_user,
        )
