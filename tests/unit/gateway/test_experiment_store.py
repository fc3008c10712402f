"""The folder of experiments where HTTP does not reach: full disks, dead processes, races."""

from __future__ import annotations

import errno
import io
import os
import time
from pathlib import Path
from typing import NoReturn

import pytest

from nrp_common.errors import ExperimentNotFound, StorageError, StorageFull, StoredFileNotFound
from nrp_gateway.storage.experiment_store import IN_TRANSIT_AT_MOST_S, TRANSIT, ExperimentStore


@pytest.fixture
def store(tmp_path: Path) -> ExperimentStore:
    """A store with an experiment `demo` that has one file."""
    store = ExperimentStore(tmp_path)
    store.create("demo")
    store.write("demo", "file", io.BytesIO(b"before"), 6)
    return store


def in_transit(root: Path) -> list[str]:
    return [path.name for path in (root / TRANSIT).iterdir()]


def test_a_full_disk_is_named_and_leaves_what_was_there(
    store: ExperimentStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> NoReturn:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageFull, match="no room left in the storage for 'file'"):
        store.write("demo", "file", io.BytesIO(b"after"), 5)
    assert (tmp_path / "demo" / "file").read_bytes() == b"before"
    assert in_transit(tmp_path) == []


def test_content_that_ends_early_leaves_what_was_there(store: ExperimentStore, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="after 5 of 100 bytes"):
        store.write("demo", "file", io.BytesIO(b"after"), 100)
    assert (tmp_path / "demo" / "file").read_bytes() == b"before"
    assert in_transit(tmp_path) == []


def test_an_experiment_that_is_deleted_during_an_upload_stays_deleted(store: ExperimentStore, tmp_path: Path) -> None:
    class Content(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if (tmp_path / "demo").exists():
                store.delete("demo")
            return super().read(size)

    with pytest.raises((ExperimentNotFound, StoredFileNotFound)):
        store.write("demo", "sub/file", Content(b"after"), 5)
    assert not (tmp_path / "demo").exists()
    assert in_transit(tmp_path) == []


def test_what_a_dead_process_left_is_removed_after_a_day(store: ExperimentStore, tmp_path: Path) -> None:
    long_ago = time.time() - IN_TRANSIT_AT_MOST_S - 10
    (tmp_path / TRANSIT / "discarded").mkdir()
    for name in ("being_sent", "left", "discarded/file"):
        (tmp_path / TRANSIT / name).touch()
    for name in ("left", "discarded"):
        os.utime(tmp_path / TRANSIT / name, (long_ago, long_ago))
    ExperimentStore(tmp_path)
    assert in_transit(tmp_path) == ["being_sent"]


def test_what_cannot_be_asked_for_is_not_listed(store: ExperimentStore, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "demo" / "pipe")
    Path(os.fsdecode(os.fsencode(tmp_path / "demo") + b"/\xff")).touch()
    (tmp_path / "demo" / "back\\slash").touch()
    assert [each.name for each in store.files("demo")] == ["file"]
    with pytest.raises(StoredFileNotFound):
        store.path_of("demo", "pipe")


def test_what_is_no_experiment_is_not_listed(store: ExperimentStore, tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "experiments").mkdir()
    assert [each.uuid for each in store.experiments()] == ["demo"]


def test_files_from_before_1980_are_zipped(store: ExperimentStore, tmp_path: Path) -> None:
    os.utime(tmp_path / "demo" / "file", (0, 0))
    with store.zip("demo") as packed:
        assert packed.read(2) == b"PK"
