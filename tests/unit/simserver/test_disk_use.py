"""What simulations take of the disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from nrp_simserver.resources import disk_use
from nrp_simserver.resources.disk_use import DiskUse, size_of
from nrp_simserver.simulation_folder import SimulationFolder

MB = 1_000_000


@pytest.fixture
def free_mb(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How much of the disk is free, as a test says: 1000 MB at first."""
    free = {"mb": 1000}
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free["mb"] * MB))
    return free


@pytest.fixture(autouse=True)
def _measured_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_use, "MEASURED_EVERY_S", 0.0)
    monkeypatch.setattr(disk_use, "LARGEST_SHARE", 1e9)


def simulation(tmp_path: Path, number: int) -> SimulationFolder:
    folder = SimulationFolder(tmp_path / str(number), number)
    folder.experiment.mkdir(parents=True)
    return folder


def write(folder: SimulationFolder, megabytes: int, name: str = "data") -> None:
    (folder.experiment / name).write_bytes(b"x" * megabytes * MB)


# -- sizes -----------------------------------------------------------------------------------------------------------


def test_size_is_that_of_all_files_at_any_depth(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/.hidden").write_bytes(b"x" * MB)
    (tmp_path / "top").write_bytes(b"x" * MB)
    assert 2 * MB <= size_of(tmp_path) < 2.1 * MB


def test_holes_further_names_and_what_links_lead_to_do_not_count(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "large").write_bytes(b"x" * 5 * MB)
    folder = tmp_path / "folder"
    folder.mkdir()
    with (folder / "sparse").open("wb") as file:
        file.truncate(50 * MB)
    (folder / "file").write_bytes(b"x" * MB)
    (folder / "same").hardlink_to(folder / "file")
    (folder / "link").symlink_to(elsewhere)
    assert MB <= size_of(folder) < 1.1 * MB


def test_folder_that_is_gone_has_no_size(tmp_path: Path) -> None:
    assert size_of(tmp_path / "gone") == 0


def test_large_folder_is_measured_more_seldom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk_use, "LARGEST_SHARE", 1e-9)
    disk, folder = DiskUse(tmp_path, 0), simulation(tmp_path, 1)
    assert disk.megabytes(folder) < 1
    write(folder, 3)
    assert disk.megabytes(folder) < 1


# -- a full disk -----------------------------------------------------------------------------------------------------


def test_nothing_is_launched_while_less_is_free_than_is_kept(tmp_path: Path, free_mb: dict[str, int]) -> None:
    disk = DiskUse(tmp_path, 500)
    assert disk.refusal() is None
    free_mb["mb"] = 499
    assert disk.refusal() == "only 499 MB of its disk are free, 500 are kept (NRP_LIMIT_FREE_DISK_MB)"


def test_whoever_wrote_most_makes_room_and_only_one_at_a_time(tmp_path: Path, free_mb: dict[str, int]) -> None:
    disk = DiskUse(tmp_path, 500)
    most, less = simulation(tmp_path, 1), simulation(tmp_path, 2)
    for folder in (most, less):
        disk.megabytes(folder)
    write(most, 9)
    write(less, 6)
    for folder in (most, less):
        disk.megabytes(folder)
    assert disk.shortage_by(most) is None
    free_mb["mb"] = 495
    assert disk.shortage_by(less) is None
    assert disk.shortage_by(most) == (
        "The disk is full: 495 MB are free, 500 are kept (limit NRP_LIMIT_FREE_DISK_MB), and of all simulations this "
        "one wrote most, 9 MB"
    )
    disk.forget(most)
    assert disk.shortage_by(less) is None
    shutil.rmtree(most.path)
    assert disk.shortage_by(less) is not None


def test_simulation_is_not_blamed_for_its_experiment_or_for_what_others_wrote(
    tmp_path: Path, free_mb: dict[str, int]
) -> None:
    disk, folder = DiskUse(tmp_path, 500), simulation(tmp_path, 1)
    write(folder, 20, "experiment's own")
    disk.megabytes(folder)
    write(folder, 2)
    disk.megabytes(folder)
    free_mb["mb"] = 490
    assert disk.shortage_by(folder) is None


def test_there_is_room_for_what_leaves_enough_free(tmp_path: Path, free_mb: dict[str, int]) -> None:
    disk = DiskUse(tmp_path, 500)
    assert disk.has_room_for(500 * MB)
    assert not disk.has_room_for(501 * MB)
