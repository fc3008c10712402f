"""Which placement a launcher has."""

from __future__ import annotations

from collections.abc import Callable

from nrp_common.bus import Bus
from nrp_common.errors import SettingsError
from nrp_simserver.placement.local.placement import LocalPlacement
from nrp_simserver.placement.placement import Listener, Placement
from nrp_simserver.resources.cgroups import CgroupTree
from nrp_simserver.settings import LauncherSettings


def placement_of(
    settings: LauncherSettings,
    bus: Bus,
    cgroups: CgroupTree | None,
    listener: Listener,
    all_told: Callable[[], None],
    servers: Callable[[], set[int]],
) -> Placement:
    """The one that `NRP_PLACEMENT` names. Its arguments are those of the placements.

    Raises:
        SettingsError: it cannot work with these settings.
    """
    match settings.placement:
        case "slurm":
            from nrp_simserver.placement.slurm.placement import (
                SlurmPlacement,  # a launcher of another kind needs none of it
            )

            return SlurmPlacement(settings, bus, listener, all_told)
        case "kubernetes":
            try:
                from nrp_simserver.placement.kubernetes.placement import (
                    KubernetesPlacement,  # and what an extra installs
                )
            except ModuleNotFoundError as error:
                raise SettingsError(
                    f"NRP_PLACEMENT=kubernetes needs the package {error.name}: pip install 'nrp-backend[kubernetes]'"
                ) from error
            return KubernetesPlacement(settings, bus, listener, all_told)
        case _:
            return LocalPlacement(settings, cgroups, listener, all_told, servers)
