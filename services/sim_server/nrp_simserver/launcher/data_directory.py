"""The data directory of a launcher, which no other one may use.

They would take each other's simulations for leftovers.

Launchers that are copies of one another, as those of a scaled container are, share a directory: each has a folder of
its own in it. A copy that comes back finds what it left there.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, TextIO

from nrp_common.errors import SettingsError
from nrp_simserver.settings import LauncherSettings

LOCK: Final = "launcher.lock"
"""Locked as long as the launcher lives, however it ends. Containers of one machine see each other's locks."""


@contextmanager
def data_directory_of(settings: LauncherSettings) -> Iterator[LauncherSettings]:
    """The settings with the directory, and the launcher's name, that this process alone has meanwhile.

    Raises:
        SettingsError: another launcher uses the directory, or it cannot be written.
    """
    try:
        lock, claimed = _numbered(settings) if settings.share_data_directory else _sole(settings)
    except OSError as error:
        raise SettingsError(f"NRP_DATA_DIRECTORY={settings.data_directory} cannot be used: {error}") from error
    with lock:
        yield claimed


def _sole(settings: LauncherSettings) -> tuple[TextIO, LauncherSettings]:
    lock = _lock(settings.data_directory)
    if lock is None:
        raise SettingsError(f"NRP_DATA_DIRECTORY={settings.data_directory} is used by another launcher")
    return lock, settings


def _numbered(settings: LauncherSettings) -> tuple[TextIO, LauncherSettings]:
    """The first folder that no launcher uses: the lowest numbers are used whatever copies come and go."""
    for number in count(1):
        folder = settings.data_directory / str(number)
        if (lock := _lock(folder)) is not None:
            own = {"data_directory": folder, "launcher_name": f"{settings.launcher_name}-{number}"}
            return lock, settings.model_copy(update=own)
    raise AssertionError


def _lock(directory: Path) -> TextIO | None:
    """The lock of a directory, None when another launcher has it."""
    directory.mkdir(parents=True, exist_ok=True)
    lock = (directory / LOCK).open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    except OSError:
        lock.close()
        raise
    return lock
