"""Whether the nodes of a cluster can work with a launcher's settings, as far as that can be seen from its machine."""

from __future__ import annotations

import ipaddress
import logging
import socket
from pathlib import Path
from typing import Final

import psutil

from nrp_common.errors import SettingsError
from nrp_simserver.placement.slurm.commands import Slurm, SlurmUnavailable
from nrp_simserver.settings import LauncherSettings

log = logging.getLogger(__name__)

OF_ONE_MACHINE: Final = {"btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "vfat", "xfs"}
"""File systems that no other machine sees, unless they are exported: then the nodes have them under another type."""

LOOKED_AT_WITHIN_S: Final = 5.0
"""How long a launcher's start may be held up by a controller that is away."""


def check_site(slurm: Slurm, settings: LauncherSettings) -> None:
    """See to it that nodes find the simulations' folders and the broker. Where Slurm does not answer, it is not known.

    Raises:
        SettingsError: they do not; says which setting is at fault.
    """
    try:
        hosts = slurm.hosts(LOOKED_AT_WITHIN_S)
    except SlurmUnavailable as error:
        log.warning("Slurm does not answer; launches wait until it does: %s", error)
        return
    others = sorted(host for host in hosts if not is_this_machine(host))
    if not others:
        return
    directory = settings.data_directory.absolute()
    if (kind := file_system_of(directory)) in OF_ONE_MACHINE and not settings.slurm_shared:
        raise SettingsError(
            f"NRP_DATA_DIRECTORY={directory} is on a file system of this machine only ({kind}), and {_named(others)}:"
            " it has to be on one that all nodes share, at the same path. If it is exported from this machine to them,"
            " say so by NRP_SLURM_SHARED=true"
        )
    if is_loopback(settings.broker.host):
        raise SettingsError(
            f"NRP_MQTT_BROKER_ADDRESS={settings.mqtt_broker_address} is this machine for whoever uses it, and"
            f" {_named(others)}: give the name under which they reach the broker"
        )


def is_this_machine(host: str) -> bool:
    """Whether a node's name is that of this machine, with its domain or without."""
    return host == "localhost" or host.partition(".")[0] == socket.gethostname().partition(".")[0]


def is_loopback(host: str) -> bool:
    """Whether an address leads back to the machine that uses it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def file_system_of(directory: Path) -> str:
    """The type of the file system that a directory is on, as the kernel calls it; "" when that is not known."""
    mounts = {Path(each.mountpoint): each.fstype for each in psutil.disk_partitions(all=True)}
    real = directory.resolve()
    return next((mounts[each] for each in (real, *real.parents) if each in mounts), "")


def _named(hosts: list[str]) -> str:
    more = f" and {len(hosts) - 1} more" if len(hosts) > 1 else ""
    return f"{hosts[0]}{more} {'are nodes' if more else 'is a node'} of the cluster"
