"""The files of experiments cloned before, kept so that the next clone need not fetch them again.

A folder an experiment, a file a version: the name of a version is made of the file's path, size and time of change, so
a version never changes. Files appear whole, by renaming, and disappear whole; therefore any number of processes can
share the cache without a lock, and one that dies in the middle leaves nothing worse than a partial file that is
removed later.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from io import FileIO
from pathlib import Path

GIGABYTE = 1_000_000_000

FICLONE = 0x40049409
"""The request that makes one file share another one's blocks until either is written to (ioctl_ficlone(2))."""

PARTIAL = ".partial"
PARTIAL_IS_LEFT_OVER_AFTER_S = 3600
"""Nobody fetches one file for longer; what is older belongs to a process that died."""


class CloneCache:
    """A cache of experiments' files.

    Args:
        folder: made when missing; may be shared between processes, and deleted while nobody clones.
        limit: in bytes. Beyond it the experiments whose last clone is longest ago are forgotten.
    """

    def __init__(self, folder: Path, *, limit: int = 4 * GIGABYTE) -> None:
        self.folder = folder
        self.limit = limit
        self._filling: dict[Path, threading.Lock] = {}

    def of_experiment(self, base_url: str, experiment_id: str) -> ExperimentCache:
        """The part of the cache for one experiment of one Storage Server."""
        folder = self.folder / _digest(base_url, experiment_id)
        return ExperimentCache(folder, self._filling.setdefault(folder, threading.Lock()))

    def shrink(self) -> None:
        """Forget experiments until the rest is within the limit."""
        folders = [_FolderUse.of(Path(entry.path)) for entry in _entries(self.folder)]
        excess = sum(use.size for use in folders) - self.limit
        for use in sorted(folders, key=lambda use: use.last_used):
            if excess <= 0:
                break
            shutil.rmtree(use.folder, ignore_errors=True)
            excess -= use.size


class _FolderUse:
    """How much an experiment takes in the cache and when it was cloned last."""

    def __init__(self, folder: Path, size: int, last_used: float) -> None:
        self.folder = folder
        self.size = size
        self.last_used = last_used

    @classmethod
    def of(cls, folder: Path) -> _FolderUse:
        size, last_used = 0, 0.0
        with suppress(FileNotFoundError):  # another process forgot it
            last_used = folder.stat().st_mtime
        for entry in _entries(folder):
            with suppress(FileNotFoundError):
                size += entry.stat(follow_symlinks=False).st_size
        return cls(folder, size, last_used)


class ExperimentCache:
    """The cached files of one experiment.

    Attributes:
        folder: where they are.
        filling: to be held while files are fetched, so that of many clones at once only one fetches them.
    """

    def __init__(self, folder: Path, filling: threading.Lock) -> None:
        self.folder = folder
        self.filling = filling
        self._used: set[str] = set()

    def copy(self, path: str, version: tuple[object, ...], destination: Path) -> bool:
        """Copy a version of a file to `destination`; False when the cache has none."""
        name = self._name(path, version)
        try:
            copy_content(self.folder / name, destination)
        except FileNotFoundError:
            if not destination.parent.is_dir():
                raise
            return False
        return True

    def add(self, path: str, version: tuple[object, ...], source: Path) -> None:
        """Keep a version of a file, whose content is `source`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f"{uuid.uuid4().hex}{PARTIAL}"
        try:
            copy_content(source, partial)
            partial.replace(self.folder / self._name(path, version))
        finally:
            partial.unlink(missing_ok=True)

    def forget_unused(self) -> None:
        """Forget every version that was neither copied nor added through this object, and note the time of use."""
        oldest_partial = time.time() - PARTIAL_IS_LEFT_OVER_AFTER_S
        for entry in _entries(self.folder):
            with suppress(FileNotFoundError):
                if entry.name.endswith(PARTIAL):
                    if entry.stat().st_mtime < oldest_partial:
                        Path(entry.path).unlink()
                elif entry.name not in self._used:
                    Path(entry.path).unlink()
        with suppress(FileNotFoundError):
            os.utime(self.folder)

    def _name(self, path: str, version: Iterable[object]) -> str:
        name = _digest(path, *version)
        self._used.add(name)
        return name


def copy_content(source: Path, destination: Path) -> None:
    """Copy a file's content, sharing the blocks where the file system can; the copies never share later writes."""
    with source.open("rb", buffering=0) as read, destination.open("wb", buffering=0) as write:
        try:
            fcntl.ioctl(write, FICLONE, read.fileno())
        except OSError:  # most file systems cannot
            _copy_bytes(read, write)


def _copy_bytes(read: FileIO, write: FileIO) -> None:
    try:
        while os.copy_file_range(read.fileno(), write.fileno(), 1 << 30):
            pass
    except OSError:  # between some file systems there is no such thing
        read.seek(0)
        write.seek(0)
        write.truncate()
        shutil.copyfileobj(read, write, 1 << 20)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except FileNotFoundError:
        return []


def _digest(*parts: object) -> str:
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()
