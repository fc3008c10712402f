"""The machine: its data folder, its disk, its memory, and whether the ports are free where nothing runs."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Final

import psutil

from nrp_cli.doctor.findings import Finding
from nrp_cli.doctor.targets import Targets
from nrp_cli.local_broker import LOOPBACK, MQTT5_PORT, MQTT_PORT, WEBSOCKET_PORT, find_mosquitto
from nrp_cli.ports import is_free
from nrp_cli.stack import REST_PORT
from nrp_simserver.resources.capacity import available_cores, available_memory, default_capacity, free_memory

GIGABYTE: Final = 1e9

LITTLE_DISK: Final = 5e9
"""Bytes: some evenings of camera images."""

NO_DISK: Final = 5e8
"""Bytes: the logs of one simulation may take as much (NRP_LOG_LIMIT_MB)."""

LITTLE_MEMORY: Final = 1e9
"""Bytes: one scene with cameras, or a brain of some ten thousand neurons."""

FEW_FILES: Final = 1024
"""Descriptors: a gateway with a hundred connections and a launcher need some hundred."""


def examine_machine(targets: Targets, *, is_up: bool) -> Iterator[Finding]:
    """What the backend stands on here.

    Args:
        targets: where to look.
        is_up: whether anything of the backend runs: then the ports are its own.
    """
    yield Finding.ok("backend", f"{version('nrp-backend')} on Python {platform.python_version()} ({sys.executable})")
    cores, memory = available_cores(), available_memory()
    yield _memory(cores, memory)
    yield from _data_folder(targets.data)
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= files < FEW_FILES:
        yield Finding.warning(
            "open files",
            f"A process may have {files} files open",
            f"Allow more: `ulimit -n {4 * FEW_FILES}`, or LimitNOFILE= in its unit.",
        )
    yield _mosquitto()
    if not is_up:
        yield from _ports()


def disk_space(name: str, free: int) -> Finding:
    """Whether what is free on a disk, in bytes, will do."""
    shown = f"{free / GIGABYTE:.1f} GB free"
    advice = "Delete what is not needed: old archives in experiments (*.log.zip, *.data.zip), or move the data folder."
    if free < NO_DISK:
        return Finding.problem(name, f"Only {shown}: logs and results of simulations will not fit", advice)
    if free < LITTLE_DISK:
        return Finding.warning(name, f"Only {shown}", advice)
    return Finding.ok(name, shown)


def _memory(cores: float, memory: int) -> Finding:
    free = free_memory()
    capacity = default_capacity(cores, memory)
    shown = (
        f"{free / GIGABYTE:.1f} of {memory / GIGABYTE:.1f} GB free; {cores:g} cores: {capacity} simulations at once"
        " unless NRP_CAPACITY says otherwise"
    )
    if free < LITTLE_MEMORY:
        return Finding.warning("memory", shown, "End other programs, or set NRP_CAPACITY to what fits.")
    return Finding.ok("memory", shown)


def _data_folder(folder: Path) -> Iterator[Finding]:
    if not folder.exists():
        parent = next(each for each in folder.parents if each.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield Finding.note("data folder", f"{folder} is not there yet; it will be made")
            yield disk_space("disk", shutil.disk_usage(parent).free)
        else:
            yield Finding.problem(
                "data folder",
                f"{folder} is not there, and {parent} may not be written by this user",
                f"Make it, and give it to who runs the services (chown {folder}), or name another one by --data.",
            )
        return
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nrp_doctor_") as file:
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        yield Finding.problem(
            "data folder",
            f"{folder} cannot be written: {error.strerror}",
            "Give it to who runs the services (chown -R), free some space on its disk, or name another one by --data.",
        )
    else:
        yield _rights(folder)
    yield disk_space("disk", shutil.disk_usage(folder).free)


def _rights(folder: Path) -> Finding:
    mode = folder.stat().st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        return Finding.warning(
            "data folder",
            f"{folder} may be written by every user of this machine",
            f"They could have their programs run as yours: chmod o-w {folder}",
        )
    return Finding.ok("data folder", f"{folder}, writable")


def _mosquitto() -> Finding:
    program = find_mosquitto()
    if program is None:
        return Finding.note(
            "Mosquitto",
            "Not installed: `nrp up` uses the broker that it brings along",
            "For many simulations at once install it: apt-get install mosquitto mosquitto-clients",
        )
    said = ""
    with suppress(OSError, subprocess.SubprocessError):
        said = subprocess.run([program, "-h"], capture_output=True, text=True, timeout=5, check=False).stdout
    return Finding.ok("Mosquitto", f"{(said.splitlines() or ['installed'])[0]} ({program})")


def _ports() -> Iterator[Finding]:
    """Whether `nrp up` gets the usual ports."""
    usual = {REST_PORT: "REST", MQTT_PORT: "MQTT", MQTT5_PORT: "MQTT 5 (embedded broker)", WEBSOCKET_PORT: "WebSocket"}
    taken = {port: use for port, use in usual.items() if not is_free(LOOPBACK, port)}
    if not taken:
        yield Finding.ok("ports", f"{', '.join(map(str, usual))} are free")
    for port, use in taken.items():
        yield Finding.warning(
            "ports",
            f"Port {port}, for {use}, is taken{_by_whom(port)}",
            "`nrp up` takes the next free one; clients that count on the usual one will not find it. End the other"
            " program, or choose ports (`nrp up --help`).",
        )


def _by_whom(port: int) -> str:
    with suppress(psutil.Error):
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid is not None:
                return f" by {psutil.Process(each.pid).name()} (process {each.pid})"
    return ""
