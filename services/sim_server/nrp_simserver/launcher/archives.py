"""The two archives of a simulation: its logs, and its results.

Logs are the simulation's own log and all `*.log` files in the experiment's folder, hidden ones and subfolders included.
Results are the files that are new or changed since the experiment was cloned and are no logs.
"""

from __future__ import annotations

import os
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from nrp_common.messages import ArchiveKind
from nrp_simserver.simulation_folder import SimulationFolder, open_file

QUICKLY: Final = 1
"""The level of compression: higher ones take several times as long for a tenth of the size."""

CHUNK: Final = 1 << 20
"""In bytes."""

FIRST_ZIP_TIME: Final = (1980, 1, 1, 0, 0, 0)
"""Stands for all times that a zip file cannot hold."""

SUFFIXES: Final = {ArchiveKind.LOGS: "log", ArchiveKind.RESULTS: "data"}

Snapshot = dict[str, tuple[int, int]]
"""Size in bytes and time of change in nanoseconds of each file, by its path relative to the experiment."""


class ArchivedFile(NamedTuple):
    """A file and what it is called in the archive."""

    path: Path
    name: str


def archive_name(simulation_id: int, kind: ArchiveKind, launched_at: datetime | None) -> str:
    """What an archive is called in the experiment: with the time of the launch the final one, without it one so far."""
    stamp = "" if launched_at is None else f"{launched_at:%Y-%m-%d_%H-%M-%S}_"
    return f"{stamp}simulation_{simulation_id}.{SUFFIXES[kind]}.zip"


# -- what belongs into them ------------------------------------------------------------------------------------------


def snapshot(experiment: Path) -> Snapshot:
    """The files of an experiment as they are now."""
    return {_relative(entry, experiment): (status.st_size, status.st_mtime_ns) for entry, status in _files(experiment)}


def files_of(kind: ArchiveKind, folder: SimulationFolder, cloned: Snapshot) -> Iterator[ArchivedFile]:
    """What belongs into an archive; `cloned` is what the experiment was when the simulation began."""
    return _logs(folder) if kind is ArchiveKind.LOGS else _results(folder, cloned)


def _logs(folder: SimulationFolder) -> Iterator[ArchivedFile]:
    if folder.log.exists():
        yield ArchivedFile(folder.log, folder.log.name)
    for entry, _ in _files(folder.experiment):
        if _is_log(entry):
            name = _relative(entry, folder.experiment)
            yield ArchivedFile(Path(entry.path), f"experiment/{name}" if name == folder.log.name else name)


def _results(folder: SimulationFolder, cloned: Snapshot) -> Iterator[ArchivedFile]:
    for entry, status in _files(folder.experiment):
        name = _relative(entry, folder.experiment)
        if not _is_log(entry) and cloned.get(name) != (status.st_size, status.st_mtime_ns):
            yield ArchivedFile(Path(entry.path), name)


def size_of_logs(folder: SimulationFolder) -> int:
    """The size in bytes of the simulation's own log and of those directly in the experiment's folder."""
    size = 0
    with suppress(OSError):
        size += folder.log.stat().st_size
    with suppress(OSError), os.scandir(folder.experiment) as entries:
        for entry in entries:
            if _is_log(entry):
                with suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_size
    return size


def _is_log(entry: os.DirEntry[str]) -> bool:
    return entry.name.endswith(".log")


def _files(experiment: Path) -> Iterator[tuple[os.DirEntry[str], os.stat_result]]:
    """Regular files below the experiment's folder, with links to such that are inside; not what Python compiled."""
    waiting = [str(experiment)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # a folder may vanish, or not be readable
            for entry in entries:
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        if entry.name != "__pycache__":
                            waiting.append(entry.path)
                    elif entry.is_file() and (not entry.is_symlink() or _stays_inside(entry, experiment)):
                        yield entry, entry.stat()


def _stays_inside(link: os.DirEntry[str], experiment: Path) -> bool:
    return Path(link.path).resolve().is_relative_to(experiment.resolve())


def _relative(entry: os.DirEntry[str], experiment: Path) -> str:
    name = entry.path[len(str(experiment)) + 1 :]
    return name.encode(errors="surrogateescape").decode(errors="replace")  # a name need not be text


# -- how they are written --------------------------------------------------------------------------------------------


def write_archive(destination: Path, files: Iterable[ArchivedFile]) -> list[str]:
    """Zip `files` into `destination`, safely on disk when this returns. Without any file no archive is written.

    Returns:
        What could not be read, a line each; it is left out.

    Raises:
        OSError: the archive could not be written.
    """
    unread: list[str] = []
    unfinished = destination.with_name(f"{destination.name}.part")
    try:
        with unfinished.open("wb") as target:
            with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=QUICKLY) as archive:
                for file in files:
                    try:
                        _add(archive, file)
                    except _Unreadable as error:
                        unread.append(f"{file.name}: {error}")
                is_empty = not archive.namelist()
            target.flush()
            os.fsync(target.fileno())
    except OSError:  # the disk is full; the next attempt is not to find it full of this one
        unfinished.unlink(missing_ok=True)
        raise
    if is_empty:
        unfinished.unlink()
    else:
        unfinished.replace(destination)
    return unread


class _Unreadable(Exception):
    """A file cannot be read, which is no reason to lose the others."""


def _add(archive: zipfile.ZipFile, file: ArchivedFile) -> None:
    with _opened(file.path) as source:
        status = os.fstat(source.fileno())
        entry = zipfile.ZipInfo(file.name, _zip_time(status.st_mtime))
        entry.compress_type = zipfile.ZIP_DEFLATED
        entry.external_attr = (status.st_mode & 0xFFFF) << 16
        with archive.open(entry, "w", force_zip64=status.st_size > zipfile.ZIP64_LIMIT // 2) as target:
            left = status.st_size  # no more: something may be writing to it, faster than it is read
            while left > 0 and (chunk := _read(source, min(CHUNK, left))):
                target.write(chunk)
                left -= len(chunk)


def _opened(path: Path) -> BinaryIO:
    try:
        return open_file(path)
    except OSError as error:
        raise _Unreadable(error.strerror) from error


def _read(source: BinaryIO, size: int) -> bytes:
    try:
        return source.read(size)
    except OSError as error:
        raise _Unreadable(error.strerror) from error


def _zip_time(seconds: float) -> tuple[int, int, int, int, int, int]:
    """A time as zip files can hold it: local, and from 1980 to 2107."""
    try:
        local = time.localtime(seconds)
    except (OverflowError, ValueError):
        return FIRST_ZIP_TIME
    if not 1980 <= local.tm_year <= 2107:
        return FIRST_ZIP_TIME
    return local.tm_year, local.tm_mon, local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec
