"""Experiments kept as the subfolders of one folder.

Nothing outside that folder is read, written, listed or deleted: names are checked, and symbolic links are neither
listed nor followed. Files appear whole, whoever writes them at the same time, and deleted folders disappear whole: both
are prepared in a folder of their own beside the experiments, `.transit`.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
import time
import uuid
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NoReturn

from nrp_common.errors import ExperimentNotFound, InvalidName, StorageError, StorageFull, StoredFileNotFound
from nrp_common.experiment_files import checked_experiment_id, checked_path, is_left_out
from nrp_common.storage_client import StoredExperiment, StoredFile

CONFIGURATION: Final = "simulation_config.json"

LARGEST_CONFIGURATION: Final = 1 << 20
"""In bytes. A list of experiments does not read larger ones."""

RESERVED: Final = "experiments"
"""No experiment can have this id: `/storage/experiments` is the list of all."""

TRANSIT: Final = ".transit"

IN_TRANSIT_AT_MOST_S: Final = 24 * 3600
"""Nobody takes longer to send a file; what is older belongs to a process that died."""

LONGEST_PATH: Final = 4095
"""In bytes: what Linux takes."""

CHUNK: Final = 1 << 18
"""Bytes copied at once."""


class ExperimentStore:
    """The experiments in a folder. May be used from several threads, and by several processes at once.

    Every method raises `InvalidName` for a name that no experiment or file can have, or that leads over a symbolic
    link.

    Args:
        root: a folder that exists when a method is called.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._remove_left_over()

    # -- experiments ---------------------------------------------------------------------------------------------------

    def experiments(self) -> list[StoredExperiment]:
        """All experiments, by id."""
        with os.scandir(self._root) as entries:
            ids = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return [
            StoredExperiment(uuid=each, name=each, owned=True, configuration=self._configuration(each))
            for each in sorted(ids)
            if _is_experiment_id(each)
        ]

    def create(self, experiment_id: str) -> None:
        """Make an empty experiment; nothing happens when it is there.

        Raises:
            InvalidName: also when something else has this name.
        """
        folder = self._root / _checked_id(experiment_id)
        with _faults_named(experiment_id):
            folder.mkdir(exist_ok=True)
        self._experiment(experiment_id)

    def delete(self, experiment_id: str) -> None:
        """Delete an experiment with all its files.

        Raises:
            ExperimentNotFound: there is none of this id.
        """
        try:
            self._discard(self._experiment(experiment_id))
        except FileNotFoundError as error:  # somebody else was quicker
            raise _no_experiment(experiment_id) from error

    def zip(self, experiment_id: str) -> BinaryIO:
        """What a run needs of an experiment as a zip archive, in a folder of the experiment's name.

        Raises:
            ExperimentNotFound: there is none of this id.
            StorageFull: there is no room for the archive.
        """
        files = self.files_for_a_run(experiment_id)
        with _faults_named(experiment_id):
            packed: BinaryIO = tempfile.TemporaryFile(dir=self._transit())  # noqa: SIM115  the caller closes it
            with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, strict_timestamps=False) as archive:
                for each in files:
                    with suppress(FileNotFoundError):  # deleted since it was listed
                        archive.write(self._root / experiment_id / each.name, f"{experiment_id}/{each.name}")
        packed.seek(0)
        return packed

    # -- files ---------------------------------------------------------------------------------------------------------

    def files(self, experiment_id: str, folder: str = "") -> list[StoredFile]:
        """What lies in the experiment, or in a folder of it, subfolders not included; by name.

        Raises:
            ExperimentNotFound: there is no such experiment.
            StoredFileNotFound: there is no such folder in it.
        """
        place = self._place(experiment_id, folder) if folder else self._experiment(experiment_id)
        try:
            with os.scandir(place) as entries:
                found = [_described(entry, f"{experiment_id}/{folder}".rstrip("/")) for entry in entries]
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoredFileNotFound(f"There is no folder '{folder}' in the experiment '{experiment_id}'") from error
        return sorted((each for each in found if each is not None), key=lambda each: each.name)

    def files_for_a_run(self, experiment_id: str) -> list[StoredFile]:
        """All files and folders without logs, results and caches, named relative to the experiment.

        Each folder comes before what lies in it.

        Raises:
            ExperimentNotFound: there is no such experiment.
        """
        found = []
        waiting = [""]
        while waiting:
            folder = waiting.pop()
            with suppress(StoredFileNotFound):  # deleted since it was listed
                for each in self.files(experiment_id, folder):
                    name = f"{folder}/{each.name}" if folder else each.name
                    if not is_left_out(name, is_folder=each.is_folder):
                        found.append(each.model_copy(update={"name": name}))
                        waiting += [name] if each.is_folder else []
        return found

    def path_of(self, experiment_id: str, path: str) -> Path:
        """Where a file lies.

        Raises:
            StoredFileNotFound: there is no such file or experiment.
        """
        try:
            place = self._place(experiment_id, path)
        except ExperimentNotFound as error:
            raise StoredFileNotFound(str(error)) from error
        if not place.is_file():
            raise StoredFileNotFound(f"There is no file '{path}' in the experiment '{experiment_id}'")
        return place

    def write(self, experiment_id: str, path: str, content: BinaryIO, size: int) -> None:
        """Store a file, replacing what was there; missing folders are made.

        Args:
            experiment_id: of an experiment that exists.
            path: of the file in it.
            content: the file's content.
            size: how many bytes `content` has to give.

        Raises:
            ExperimentNotFound: there is no such experiment.
            InvalidName: also when a folder has this name, or a file the name of a folder that it would lie in.
            StorageError: `content` ended early. Nothing is stored.
            StorageFull: there is no room for it. Nothing is stored.
        """
        place = self._place(experiment_id, path)
        partial = self._transit() / uuid.uuid4().hex
        with _faults_named(path):
            try:
                _store(content, size, partial)
                self._make_folders(experiment_id, place.parent)
                partial.replace(place)
            finally:
                partial.unlink(missing_ok=True)

    def make_folder(self, experiment_id: str, path: str) -> None:
        """Make a folder and those it lies in; nothing happens when it is there.

        Raises:
            ExperimentNotFound: there is no such experiment.
            InvalidName: also when a file has this name.
        """
        with _faults_named(path):
            self._make_folders(experiment_id, self._place(experiment_id, path))

    def delete_file(self, experiment_id: str, path: str) -> None:
        """Delete a file.

        Raises:
            ExperimentNotFound: there is no such experiment.
            StoredFileNotFound: there is no such file in it.
            InvalidName: also when it is a folder.
        """
        with _faults_named(path):
            self._place(experiment_id, path).unlink()

    def delete_folder(self, experiment_id: str, path: str) -> None:
        """Delete a folder with all that lies in it.

        Raises:
            ExperimentNotFound: there is no such experiment.
            StoredFileNotFound: there is no such folder in it.
        """
        place = self._place(experiment_id, path)
        if not place.is_dir():
            raise StoredFileNotFound(f"There is no folder '{path}' in the experiment '{experiment_id}'")
        with _faults_named(path):
            self._discard(place)

    # -- places --------------------------------------------------------------------------------------------------------

    def _experiment(self, experiment_id: str) -> Path:
        folder = self._root / _checked_id(experiment_id)
        if folder.is_symlink() or not folder.is_dir():
            raise _no_experiment(experiment_id)
        return folder

    def _place(self, experiment_id: str, path: str) -> Path:
        if "\\" in path:
            raise InvalidName("No file can have a name with a backslash")
        place = self._experiment(experiment_id) / checked_path(path)
        if len(os.fsencode(place)) > LONGEST_PATH:
            raise InvalidName(f"'{path[:80]}...' is no name of a file: it is too long")
        if Path(os.path.realpath(place)) != place or place.is_symlink():  # the latter: one to itself
            raise InvalidName(f"'{path[:80]}' leads over a symbolic link, which is not followed")
        return place

    def _make_folders(self, experiment_id: str, folder: Path) -> None:
        # One by one: an experiment that was deleted in the meantime must not appear again.
        place = self._experiment(experiment_id)
        for level in folder.relative_to(place).parts:
            place /= level
            place.mkdir(exist_ok=True)

    def _transit(self) -> Path:
        folder = self._root / TRANSIT
        folder.mkdir(exist_ok=True)
        return folder

    def _remove_left_over(self) -> None:
        oldest = time.time() - IN_TRANSIT_AT_MOST_S
        for path in (self._root / TRANSIT).glob("*"):  # none where nothing was ever on its way
            with suppress(FileNotFoundError):  # another gateway removed it
                if path.stat().st_mtime < oldest:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _discard(self, folder: Path) -> None:
        discarded = self._transit() / uuid.uuid4().hex
        folder.rename(discarded)
        shutil.rmtree(discarded, ignore_errors=True)

    def _configuration(self, experiment_id: str) -> dict[str, Any] | None:
        try:
            path = self.path_of(experiment_id, CONFIGURATION)
            if path.stat().st_size > LARGEST_CONFIGURATION:
                return None
            content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
        except (OSError, ValueError, RecursionError, StorageError):
            return None
        return content if isinstance(content, dict) else None


def _checked_id(experiment_id: str) -> str:
    checked_experiment_id(experiment_id)
    if experiment_id == RESERVED:
        raise InvalidName(f"No experiment can be called '{RESERVED}'")
    if experiment_id.startswith(".") or ".." in experiment_id or "\\" in experiment_id:
        raise InvalidName("The id of an experiment cannot start with a dot, or hold '..' or a backslash")
    return experiment_id


def _is_experiment_id(name: str) -> bool:
    try:
        _checked_id(name)
    except InvalidName:
        return False
    return True


def _described(entry: os.DirEntry[str], folder_uuid: str) -> StoredFile | None:
    """What there is to say of a file or folder; None when it cannot be asked for, or is gone."""
    try:
        checked_path(entry.name)
        is_folder = entry.is_dir(follow_symlinks=False)
        if "\\" in entry.name or not (is_folder or entry.is_file(follow_symlinks=False)):
            return None
        status = entry.stat(follow_symlinks=False)
    except (InvalidName, FileNotFoundError):
        return None
    return StoredFile(
        name=entry.name,
        uuid=f"{folder_uuid}/{entry.name}",
        size=status.st_size,
        type="folder" if is_folder else "file",
        modified_on=datetime.fromtimestamp(status.st_mtime, UTC).isoformat(timespec="microseconds"),
    )


def _store(content: BinaryIO, size: int, path: Path) -> None:
    with path.open("xb") as opened:
        shutil.copyfileobj(content, opened, CHUNK)
        written = opened.tell()
        if written != size:
            raise StorageError(f"The file's content ended after {written} of {size} bytes")
        opened.flush()
        os.fsync(opened.fileno())  # a launcher deletes its copy of logs that it has stored
    now = time.time_ns()
    os.utime(path, ns=(now, now))  # the file system's own clock is coarse: two versions must not share a time


@contextmanager
def _faults_named(name: str) -> Iterator[None]:
    """What the file system refuses, as an error that says what is wrong with `name`."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoredFileNotFound(f"There is no '{name}'") from error
    except FileExistsError as error:
        raise InvalidName(f"'{name}' cannot be made: a file has this name") from error
    except NotADirectoryError as error:
        raise InvalidName(f"'{name}' cannot be: a part of it is a file, not a folder") from error
    except IsADirectoryError as error:
        raise InvalidName(f"'{name}' is a folder, not a file") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageFull(f"There is no room left in the storage for '{name}'") from error
        raise


def _no_experiment(experiment_id: str) -> ExperimentNotFound:
    return ExperimentNotFound(f"There is no experiment '{experiment_id}'")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
