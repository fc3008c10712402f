"""What belongs into the archives of a simulation, and how they are written whatever the files are like."""

from __future__ import annotations

import os
import threading
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nrp_common.messages import ArchiveKind
from nrp_simserver.launcher.archives import ArchivedFile, archive_name, files_of, size_of_logs, snapshot, write_archive
from nrp_simserver.simulation_folder import SimulationFolder

LAUNCHED = datetime(2026, 11, 22, 9, 5, 3, tzinfo=UTC)


def names(kind: ArchiveKind, folder: SimulationFolder, cloned: dict[str, tuple[int, int]] | None = None) -> list[str]:
    return sorted(file.name for file in files_of(kind, folder, cloned or {}))


def put(folder: SimulationFolder, path: str, content: str = "content") -> Path:
    target = folder.experiment / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(content)
    return target


def written(destination: Path, *files: Path) -> tuple[zipfile.ZipFile, list[str]]:
    faults = write_archive(destination, [ArchivedFile(file, file.name) for file in files])
    return zipfile.ZipFile(destination), faults


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "launched_at", "name"),
    [
        (ArchiveKind.LOGS, LAUNCHED, "2026-11-22_09-05-03_simulation_7.log.zip"),
        (ArchiveKind.RESULTS, LAUNCHED, "2026-11-22_09-05-03_simulation_7.data.zip"),
        (ArchiveKind.LOGS, None, "simulation_7.log.zip"),
        (ArchiveKind.RESULTS, None, "simulation_7.data.zip"),
    ],
)
def test_archives_are_named_after_launch_and_simulation(
    kind: ArchiveKind, launched_at: datetime | None, name: str
) -> None:
    assert archive_name(7, kind, launched_at) == name


# -- what belongs into them --------------------------------------------------------------------------------------------


def test_logs_are_the_simulations_own_and_all_log_files(folder: SimulationFolder) -> None:
    folder.log.write_text("own")
    for path in ("a.log", ".hidden.log", "deep/er/b.log", "no_log.txt", "log"):
        put(folder, path)
    assert names(ArchiveKind.LOGS, folder) == [".hidden.log", "a.log", "deep/er/b.log", "simulation_7.log"]


def test_experiments_log_of_the_same_name_does_not_replace_the_simulations(folder: SimulationFolder) -> None:
    folder.log.write_text("own")
    put(folder, "simulation_7.log")
    assert names(ArchiveKind.LOGS, folder) == ["experiment/simulation_7.log", "simulation_7.log"]


def test_results_are_new_and_changed_files_without_logs_and_what_python_compiled(folder: SimulationFolder) -> None:
    put(folder, "same.txt")
    put(folder, "rewritten.txt", "old")
    put(folder, "longer.txt", "old")
    os.utime(put(folder, "touched.txt"), ns=(1, 1))
    cloned = snapshot(folder.experiment)
    os.utime(put(folder, "rewritten.txt", "new"), ns=(2, 2))
    put(folder, "longer.txt", "longer than before")
    for path in ("new.csv", "deep/new.bin", "new.log", "__pycache__/module.pyc"):
        put(folder, path)
    assert names(ArchiveKind.RESULTS, folder, cloned) == ["deep/new.bin", "longer.txt", "new.csv", "rewritten.txt"]


def test_links_count_when_they_stay_inside(folder: SimulationFolder, tmp_path: Path) -> None:
    outside = tmp_path / "secret.txt"
    outside.write_text("not of this experiment")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/file.txt").write_text("neither")
    put(folder, "real.txt")
    (folder.experiment / "inside.txt").symlink_to("real.txt")
    (folder.experiment / "outside.txt").symlink_to(outside)
    (folder.experiment / "outside.log").symlink_to(outside)
    (folder.experiment / "folder").symlink_to(tmp_path / "elsewhere")
    (folder.experiment / "dangling.txt").symlink_to("nowhere")
    (folder.experiment / "circle").symlink_to("circle")
    assert names(ArchiveKind.RESULTS, folder) == ["inside.txt", "real.txt"]
    assert names(ArchiveKind.LOGS, folder) == []


def test_pipes_and_sockets_are_no_results(folder: SimulationFolder) -> None:
    os.mkfifo(folder.experiment / "pipe")
    assert names(ArchiveKind.RESULTS, folder) == []


def test_experiment_that_is_gone_has_no_files(folder: SimulationFolder) -> None:
    folder.experiment.rmdir()
    assert snapshot(folder.experiment) == {}
    assert names(ArchiveKind.LOGS, folder) == []


def test_size_of_logs_is_of_the_simulations_own_and_those_beside_the_script(folder: SimulationFolder) -> None:
    assert size_of_logs(folder) == 0
    folder.log.write_text("12345")
    put(folder, ".core.log", "123")
    put(folder, "data.txt", "1234567890")
    assert size_of_logs(folder) == 8


# -- how they are written ----------------------------------------------------------------------------------------------


def test_archive_holds_contents_times_and_modes(tmp_path: Path) -> None:
    file = tmp_path / "run.sh"
    file.write_bytes(bytes(range(256)) * 10_000)
    file.chmod(0o754)
    os.utime(file, (1_700_000_000, 1_700_000_000))
    archive, faults = written(tmp_path / "a.zip", file)
    entry = archive.getinfo("run.sh")
    assert archive.read(entry) == file.read_bytes()
    assert (entry.external_attr >> 16) & 0o777 == 0o754
    assert datetime(*entry.date_time).astimezone().timestamp() == 1_700_000_000
    assert faults == []


def test_without_files_there_is_no_archive(tmp_path: Path) -> None:
    assert write_archive(tmp_path / "a.zip", []) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", [0, -1, 2**33, 2**40])
def test_times_that_no_zip_can_hold_lose_no_file(tmp_path: Path, moment: int) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    os.utime(file, (moment, moment))
    archive, faults = written(tmp_path / "a.zip", file)
    assert archive.read("file") == b"content"
    assert faults == []


def test_names_that_are_no_text_lose_no_file(folder: SimulationFolder, tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(folder.experiment) + b"/caf\xe9.txt")).write_text("content")
    write_archive(tmp_path / "a.zip", files_of(ArchiveKind.RESULTS, folder, {}))
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        (name,) = archive.namelist()
        assert name.startswith("caf")
        assert archive.read(name) == b"content"


def test_what_cannot_be_read_is_said_and_the_rest_is_kept(tmp_path: Path) -> None:
    file, pipe = tmp_path / "file", tmp_path / "pipe"
    file.write_text("content")
    os.mkfifo(pipe)
    archive, faults = written(tmp_path / "a.zip", pipe, tmp_path / "gone", file)
    assert archive.namelist() == ["file"]
    assert faults == ["pipe: It is no file any more", "gone: No such file or directory"]


def test_file_that_grows_while_it_is_read_does_not_hold_up(tmp_path: Path) -> None:
    file, ended = tmp_path / "growing.log", threading.Event()
    file.write_bytes(b"x" * 10_000_000)

    def grow() -> None:
        with file.open("ab", buffering=0) as end:
            while not ended.is_set() and end.tell() < 500_000_000:
                end.write(b"y" * 1_000_000)

    growing = threading.Thread(target=grow)
    growing.start()
    archive, _ = written(tmp_path / "a.zip", file)
    ended.set()
    growing.join()
    assert 10_000_000 <= archive.getinfo("growing.log").file_size < 500_000_000
    assert archive.testzip() is None


def test_archive_that_cannot_be_written_is_an_error_and_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    archive, _ = written(tmp_path / "a.zip", tmp_path / "file")
    (tmp_path / "a.zip.part").mkdir()
    with pytest.raises(OSError, match=r"a\.zip\.part"):
        write_archive(tmp_path / "a.zip", [ArchivedFile(tmp_path / "file", "file")])
    assert archive.read("file") == b"content"
