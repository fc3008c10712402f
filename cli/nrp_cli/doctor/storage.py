"""The Storage Server: whether it is there, knows the caller, takes and gives files."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from nrp_cli.doctor.findings import Finding, Verdict
from nrp_cli.doctor.gateway import GatewayView
from nrp_cli.doctor.targets import Targets
from nrp_common.errors import InvalidToken, NRPError, StorageError, StorageUnavailable
from nrp_common.storage_client import StorageClient

TIMEOUT: Final = (3.0, 10.0)
"""Seconds to connect, and to wait for an answer."""

CONTENT: Final = b"written by nrp doctor\n" * 1000


def examine_storage(targets: Targets, gateway: GatewayView, experiment: str | None) -> Iterator[Finding]:
    """The Storage Server, which may be the gateway.

    Args:
        targets: where to look.
        gateway: what it says.
        experiment: one that may be written into for a moment, None for none.
    """
    url = targets.storage_url or (targets.url if gateway.keeps_experiments else "")
    if not url:
        if gateway.answers:
            yield Finding.note(
                "storage",
                "The gateway uses a Storage Server that is not named here",
                "Set NRP_STORAGE_URL to examine it.",
            )
        return
    is_gateway = gateway.keeps_experiments and url == targets.url
    client = StorageClient(url, targets.token, timeout=TIMEOUT, retry_for_s=0)
    try:
        caller = _caller(client, url, targets.token, is_gateway)
        yield caller
        if caller.verdict is Verdict.OK:
            yield _files(client, is_gateway, experiment)
    finally:
        client.close()


def _caller(client: StorageClient, url: str, token: str | None, is_gateway: bool) -> Finding:
    began = time.perf_counter()
    try:
        identity = client.identity()
    except InvalidToken:
        if token is None:
            return Finding.note(
                "identity",
                f"{url} asks for a token",
                "Give yours by --token or NRP_TOKEN to examine the storage as you.",
            )
        return Finding.problem("identity", f"{url} does not know the token", "It may have run out: sign in again.")
    except StorageUnavailable as error:
        if token is None and "500" in str(error):  # what the NRP's proxy answers to who has none
            return Finding.note("identity", f"{url} asks for a token", "Give yours by --token or NRP_TOKEN.")
        return Finding.problem(
            "storage", str(error), f"See that it runs, and that {client.host} is its address (NRP_STORAGE_URL)."
        )
    except StorageError as error:
        return Finding.problem("storage", str(error), "See that NRP_STORAGE_URL is a Storage Server's base address.")
    took_ms = (time.perf_counter() - began) * 1e3
    place = f"the gateway's own, at {url}" if is_gateway else url
    return Finding.ok("identity", f"{place}; you are '{identity.id}' ({took_ms:.0f} ms)")


def _files(client: StorageClient, is_gateway: bool, experiment: str | None) -> Finding:
    if experiment is None and not is_gateway:  # an experiment that is made there may not be deleted again
        try:
            found = len(client.experiments())
        except NRPError as error:
            return Finding.problem("files", str(error), "See the Storage Server's log.")
        return Finding.note(
            "files",
            f"{found} experiments are listed; writing was not tried",
            "Name an experiment of yours by --experiment.",
        )
    made = None if experiment is not None else f"nrp_doctor_{uuid.uuid4().hex}"
    place, name = experiment or made or "", f"nrp_doctor_{uuid.uuid4().hex[:8]}.log"  # clones leave logs out
    try:
        if made is not None:
            client.create(made)
        client.write(place, name, CONTENT)
        came_back = client.read(place, name) == CONTENT
        client.delete_file(place, name)
    except NRPError as error:
        return Finding.problem(
            "files",
            f"A file cannot be written and read: {error}",
            "Logs and results cannot be stored there either; launchers keep them meanwhile. See the storage's disk and"
            " rights, and its log.",
        )
    finally:
        if made is not None:
            with suppress(NRPError):
                client.delete_experiment(made)
    if not came_back:
        return Finding.problem(
            "files", "A file came back with another content", "See what lies between: a cache, a proxy?"
        )
    return Finding.ok("files", "written, read and deleted again")
