"""The command `nrp broker-access`."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from nrp_cli.terminal import console, reports_errors
from nrp_common.errors import SettingsError
from nrp_common.settings import checked_prefix
from nrp_common.topics import Topics

app = typer.Typer(
    no_args_is_help=True,
    help="TLS certificates, passwords and rights for Mosquitto with its dynamic security plugin.",
)

Folder = Annotated[Path, typer.Argument(help="The folder for all of it.", show_default=False)]
Hosts = Annotated[
    list[str] | None,
    typer.Option(
        "--host", help="A name or address under which clients reach the broker; may be repeated.", show_default=False
    ),
]
Owner = Annotated[
    str | None,
    typer.Option(
        metavar="UID[:GID]",
        help="Whose the broker's own files are to be: as what the broker runs. Needs root.",
        show_default=False,
    ),
]


@app.command("init")
@reports_errors
def init(
    folder: Folder,
    hosts: Hosts = None,
    prefix: Annotated[
        str | None, typer.Option(help="The topic prefix; NRP_MQTT_PREFIX when not given.", show_default=False)
    ] = None,
    broker_owner: Owner = None,
    update_rights: Annotated[
        bool, typer.Option("--update-rights", help="Write the rights anew where another version made them.")
    ] = False,
) -> None:
    """Make what is missing, and keep what is there: certificates, passwords, rights."""
    topics = _topics(prefix)
    owner = None if broker_owner is None else _ids(broker_owner)
    from nrp_cli.broker_access.folder import AccessFolder  # cryptography takes a while to import

    access = AccessFolder(folder.absolute())
    try:
        access.path.mkdir(mode=0o755, parents=True, exist_ok=True)
        access.broker.mkdir(mode=0o700, exist_ok=True)
        _tell(access.keep_certificates(hosts or _usual_hosts()))
        _tell(access.keep_accounts(topics, update_rights=update_rights))
        if owner is not None:
            _hand_over(access.broker, owner)
    except OSError as error:
        raise SettingsError(f"{error.filename or access.path} cannot be used: {error.strerror}") from error


@app.command("renew")
@reports_errors
def renew(folder: Folder, hosts: Hosts = None) -> None:
    """Make the broker's certificate anew, for the same hosts or others. The broker takes it at SIGHUP, or restarted."""
    from nrp_cli.broker_access.folder import AccessFolder

    access = AccessFolder(folder.absolute())
    try:
        _tell(access.renew_certificate(hosts or []))
    except OSError as error:
        raise SettingsError(f"{error.filename or access.path} cannot be used: {error.strerror}") from error


def _tell(done: Iterable[str]) -> None:
    for line in done:
        console.print(line, markup=False)


def _topics(prefix: str | None) -> Topics:
    # Nothing else of the environment matters here, and it may name files that are only now being made.
    try:
        return Topics(checked_prefix(os.environ.get("NRP_MQTT_PREFIX", "") if prefix is None else prefix))
    except ValueError as error:
        raise SettingsError(f"{'NRP_MQTT_PREFIX' if prefix is None else '--prefix'}: {error}") from error


def _usual_hosts() -> list[str]:
    """How the broker is called on its machine, on its network, and in the compose file."""
    return list(dict.fromkeys(["localhost", "127.0.0.1", "::1", "broker", socket.gethostname(), socket.getfqdn()]))


def _ids(owner: str) -> tuple[int, int]:
    user, _, group = owner.partition(":")
    if not (user.isascii() and user.isdecimal() and (not group or (group.isascii() and group.isdecimal()))):
        raise SettingsError(f"--broker-owner: '{owner}' is no UID or UID:GID")
    return int(user), int(group or user)


def _hand_over(folder: Path, owner: tuple[int, int]) -> None:
    for each in (folder, *folder.iterdir()):
        shutil.chown(each, *owner)
