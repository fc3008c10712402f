"""The catalogue of simulations: whether it is there, of this version, writable."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from nrp_cli.doctor.findings import Finding
from nrp_cli.doctor.gateway import GatewayView
from nrp_cli.doctor.targets import Targets
from nrp_common.errors import NRPError, SettingsError
from nrp_common.settings import secret
from nrp_gateway.catalogue import Catalogue
from nrp_gateway.settings import GatewaySettings

NETWORK_FILE_SYSTEMS = frozenset({"nfs", "nfs4", "cifs", "smbfs", "smb3", "afs", "ceph", "fuse.sshfs", "9p"})
"""SQLite's locks and its shared memory cannot be relied on there."""


def examine_catalogue(targets: Targets, gateway: GatewayView) -> Iterator[Finding]:
    """The catalogue that a gateway with these settings uses on this machine."""
    try:
        told = secret("NRP_CATALOGUE_URL")
    except SettingsError as error:
        yield Finding.problem("catalogue", str(error), "Correct the setting.")
        return
    url = told or GatewaySettings.model_construct(data_directory=targets.data).catalogue
    try:
        shown = sa.make_url(url).render_as_string(hide_password=True)
        file = _sqlite_file(url)
    except ArgumentError as error:
        yield Finding.problem("catalogue", f"NRP_CATALOGUE_URL: {error}", "Write it as postgresql://user@host/name.")
        return
    if file is not None and not file.exists():
        if gateway.answers:
            yield Finding.note(
                "catalogue",
                f"The gateway keeps it elsewhere than in {file}",
                "Name its data folder by --data, or set NRP_CATALOGUE_URL, to examine it.",
            )
        else:
            yield Finding.note("catalogue", f"There is none yet: a gateway makes {file} when it starts")
        return
    yield from _examine(url, shown)
    if file is not None:
        yield from _file_system(file)


def _sqlite_file(url: str) -> Path | None:
    parsed = sa.make_url(url)
    is_file = parsed.get_backend_name() == "sqlite" and parsed.database and not parsed.database.startswith("file:")
    return Path(parsed.database or "") if is_file else None


def _examine(url: str, shown: str) -> Iterator[Finding]:
    try:
        catalogue = Catalogue(url)
    except NRPError as error:
        yield Finding.problem("catalogue", str(error), "Install its driver, or correct the address.")
        return
    try:
        catalogue.check()
        is_current = catalogue.is_of_this_version()
        if is_current:
            catalogue.check_writing()
    except NRPError as error:
        why = getattr(error.__cause__, "orig", None) or error.__cause__ or error
        yield Finding.problem(
            "catalogue",
            f"{shown}: {why}",
            "See that the database runs, that its disk has room, and that this user may write it (ls -l).",
        )
        return
    finally:
        catalogue.close()
    if is_current:
        yield Finding.ok("catalogue", f"{shown}, of this version, writable")
    else:
        yield Finding.warning(
            "catalogue",
            f"{shown} is of another version of the backend",
            "A gateway of this version brings it up to date when it starts: restart it. Where a newer one wrote it,"
            " install that one.",
        )


def _file_system(file: Path) -> Iterator[Finding]:
    kind = _file_system_of(file)
    if kind in NETWORK_FILE_SYSTEMS:
        yield Finding.warning(
            "catalogue",
            f"{file} lies on a network file system ({kind})",
            "SQLite may lose what is written there: keep the data folder on a local disk, or use PostgreSQL.",
        )


def _file_system_of(file: Path) -> str:
    """The kind of file system that a file lies on, "" when nobody knows."""
    import psutil

    path = file.resolve()
    mounts = [each for each in psutil.disk_partitions(all=True) if path.is_relative_to(each.mountpoint)]
    return max(mounts, key=lambda each: len(each.mountpoint)).fstype if mounts else ""
