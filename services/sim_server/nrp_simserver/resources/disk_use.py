"""How much of the disk simulations take."""

from __future__ import annotations

import os
import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from nrp_simserver.simulation_folder import SimulationFolder

DISK_MEGABYTE: Final = 1_000_000
"""In bytes."""

MEASURED_EVERY_S: Final = 1.0

LARGEST_SHARE: Final = 0.05
"""The part of the time that may go into measuring one folder: a large one is measured more seldom."""

_BLOCK: Final = 512
"""In bytes: what `st_blocks` counts in, whatever the file system's blocks are."""


@dataclass
class _Measured:
    path: Path
    at_first: int
    size: int
    due_at: float


class DiskUse:
    """What simulations take of the disk that they share. Usable from several threads.

    Args:
        directory: on that disk; it exists.
        keep_free_mb: what is to be left free of it.
    """

    def __init__(self, directory: Path, keep_free_mb: int) -> None:
        self._directory = directory
        self._keep_free_mb = keep_free_mb
        self._lock = threading.Lock()  # guards the two below
        self._measured: dict[Path, _Measured] = {}
        self._ended: Path | None = None  # the folder of the simulation that was last ended to make room

    def refusal(self) -> str | None:
        """Why there is no room for one more simulation, None when there is."""
        free = self._free_mb()
        if free >= self._keep_free_mb:
            return None
        return f"only {free} MB of its disk are free, {self._keep_free_mb} are kept (NRP_LIMIT_FREE_DISK_MB)"

    def megabytes(self, folder: SimulationFolder) -> float:
        """The size of a simulation's folder in units of 10**6 bytes, as it was a moment ago."""
        measured = self._measured.get(folder.path)
        if measured is None or time.monotonic() >= measured.due_at:
            return self.measure(folder)
        return measured.size / DISK_MEGABYTE

    def measure(self, folder: SimulationFolder) -> float:
        """The same, as it is now."""
        now = time.monotonic()
        measured = self._measured.get(folder.path)
        size = size_of(folder.path)
        took_s = time.monotonic() - now
        due_at = now + max(MEASURED_EVERY_S / 2, took_s / LARGEST_SHARE)
        with self._lock:
            at_first = size if measured is None else measured.at_first
            self._measured[folder.path] = _Measured(folder.path, at_first, size, due_at)
        return size / DISK_MEGABYTE

    def shortage_by(self, folder: SimulationFolder) -> str | None:
        """Why a simulation has to be ended to make room, None when it has not.

        That is the one that has written most since it began, when that is as much as is missing. Another one has to be
        only when its folder is gone.
        """
        free = self._free_mb()
        missing = (self._keep_free_mb - free) * DISK_MEGABYTE
        if missing <= 0:
            return None
        with self._lock:
            if self._ended is not None and self._ended != folder.path and self._ended.exists():
                return None
            written = {each.path: each.size - each.at_first for each in self._measured.values()}
            own = written.get(folder.path, 0)
            if own < missing or own < max(written.values()):
                return None
            self._ended = folder.path
        return (
            f"The disk is full: {free} MB are free, {self._keep_free_mb} are kept (limit NRP_LIMIT_FREE_DISK_MB), and "
            f"of all simulations this one wrote most, {own // DISK_MEGABYTE} MB"
        )

    def has_room_for(self, size: int) -> bool:
        """Whether so many bytes more leave free what is to be."""
        return self._free_mb() - size / DISK_MEGABYTE >= self._keep_free_mb

    def forget(self, folder: SimulationFolder) -> None:
        """A simulation writes no more."""
        with self._lock:
            self._measured.pop(folder.path, None)

    def _free_mb(self) -> int:
        return shutil.disk_usage(self._directory).free // DISK_MEGABYTE


def size_of(folder: Path) -> int:
    """What all below a folder takes of the disk, in bytes. Holes in files do not count, nor a file's further names."""
    size = 0
    linked: set[tuple[int, int]] = set()
    waiting = [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # a folder may vanish, or not be readable
            for entry in entries:
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (status.st_dev, status.st_ino) in linked:
                            continue
                        linked.add((status.st_dev, status.st_ino))
                    size += status.st_blocks * _BLOCK
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size
