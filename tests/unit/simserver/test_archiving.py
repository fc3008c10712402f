"""The archives of one simulation are written and stored once, also when a launcher dies at any moment."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import StorageUnavailable
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import PENDING, ArchiveKind, Archives, Launch, LifecycleMessage
from nrp_simserver.launcher import archiving as archiving_module
from nrp_simserver.launcher.archives import snapshot
from nrp_simserver.launcher.archiving import Archiving
from nrp_simserver.launcher.simulation_record import SimulationRecord, write_snapshot
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.resources.disk_use import DiskUse
from nrp_simserver.simulation_folder import SimulationFolder, remove_folder
from tests.unit.simserver.fake_storage import FakeStorage
from tests.waiting import wait_until

LAUNCH = Launch(
    deadline=0,
    simulation_id=7,
    experiment_id="exp",
    configuration="simulation_config.json",
    main_script="main_script.py",
    owner="owner",
    sealed_token="sealed",
)

LOGS = "2026-11-22_09-05-03_simulation_7.log.zip"
RESULTS = "2026-11-22_09-05-03_simulation_7.data.zip"
BOTH = Archives(logs=LOGS, results=RESULTS)


@pytest.fixture
def record() -> SimulationRecord:
    launched_at = datetime(2026, 11, 22, 9, 5, 3, tzinfo=UTC)
    return SimulationRecord(launch=LAUNCH, incarnation="0" * 32, launched_at=launched_at)


@pytest.fixture
def spool(tmp_path: Path, storage: FakeStorage) -> Iterator[Spool]:
    spool = Spool(tmp_path / "spool", storage.of, lambda *_: None)
    yield spool
    spool.close()


@pytest.fixture
def ended(folder: SimulationFolder) -> SimulationFolder:
    """The folder of a simulation that wrote a log and a result."""
    write_snapshot(folder, snapshot(folder.experiment))
    folder.log.write_text("what it said")
    (folder.experiment / "result.txt").write_text("42")
    return folder


def told(_archives: Archives) -> None:
    raise AssertionError("told although somebody waited for it")


def final_word(archives: Archives) -> LifecycleMessage:
    return LifecycleMessage(
        source_node="nrp_launcher_x",
        source_state=SimulationState.PAUSED,
        event=SimulationEvent.STOPPED,
        target_state=SimulationState.STOPPED,
        logs=archives.logs,
        results=archives.results,
    )


@pytest.fixture
def disk(tmp_path: Path) -> DiskUse:
    return DiskUse(tmp_path, keep_free_mb=0)


@pytest.fixture
def make(record: SimulationRecord, ended: SimulationFolder, spool: Spool, storage: FakeStorage, disk: DiskUse) -> Any:
    """Archivings of the same simulation, as launchers have them one after another."""
    return lambda: Archiving(record, ended, spool, storage.of, disk)  # type: ignore[arg-type]


def test_archives_are_stored_within_the_time(make: Any, storage: FakeStorage) -> None:
    archiving = make()
    assert archiving.store(5, told) == BOTH
    assert storage.writes == [LOGS, RESULTS]
    assert archiving.is_safe


def test_storage_that_takes_longer_makes_them_pending_and_is_told_later(make: Any, storage: FakeStorage) -> None:
    slow, late = threading.Event(), list[Archives]()
    storage.trouble = lambda *_: None if slow.wait(10) else StorageUnavailable()
    archiving = make()
    assert archiving.store(0.2, late.append) == Archives(logs=PENDING, results=PENDING)
    assert archiving.is_safe
    slow.set()
    wait_until(lambda: late)
    assert late == [BOTH]


def test_simulation_that_never_began_has_none(make: Any, ended: SimulationFolder, storage: FakeStorage) -> None:
    ended.log.unlink()
    archiving = make()
    archiving.cloned = None
    assert archiving.collect(ArchiveKind.LOGS) is None
    assert archiving.store(5, told) == Archives()
    assert storage.writes == []


def test_own_log_is_stored_when_the_experiment_is_gone(
    make: Any, ended: SimulationFolder, storage: FakeStorage
) -> None:
    remove_folder(ended.experiment)
    assert make().store(5, told) == Archives(logs=LOGS)
    assert storage.writes == [LOGS]


def test_logs_are_stored_when_nobody_knows_any_more_what_was_cloned(make: Any, storage: FakeStorage) -> None:
    archiving = make()
    archiving.cloned = None
    assert archiving.store(5, told) == Archives(logs=LOGS)


def test_what_cannot_be_written_is_tried_again(
    make: Any, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write_archive = archiving_module.write_archive
    failures = iter([OSError("disk full"), ValueError("odd")])

    def fail_at_first(*arguments: Any) -> list[str]:
        if (failure := next(failures, None)) is not None:
            raise failure
        return write_archive(*arguments)

    monkeypatch.setattr(archiving_module, "write_archive", fail_at_first)
    monkeypatch.setattr(archiving_module, "WRITE_AGAIN_AFTER_S", 0.01)
    assert make().store(5, told) == BOTH
    assert "disk full" in caplog.text


def test_collected_so_far_are_replaced(make: Any, storage: FakeStorage) -> None:
    archiving = make()
    assert archiving.collect(ArchiveKind.LOGS) == "simulation_7.log.zip"
    assert archiving.collect(ArchiveKind.RESULTS) == "simulation_7.data.zip"
    assert set(storage.files) == {"exp/simulation_7.log.zip", "exp/simulation_7.data.zip"}
    make().store(5, told)
    assert set(storage.files) == {f"exp/{LOGS}", f"exp/{RESULTS}"}


def test_stored_archives_are_named_to_who_asks_for_them(make: Any) -> None:
    archiving = make()
    archiving.store(5, told)
    assert archiving.collect(ArchiveKind.RESULTS) == RESULTS


def test_what_an_earlier_launcher_spooled_is_not_written_again(
    make: Any, storage: FakeStorage, ended: SimulationFolder, spool: Spool
) -> None:
    storage.trouble = lambda *_: StorageUnavailable()
    assert make().store(5, told) == Archives(logs=PENDING, results=PENDING)
    (ended.experiment / "result.txt").write_text("half deleted")
    storage.trouble = lambda *_: None
    assert make().store(5, told) == BOTH
    assert b"half deleted" not in storage.files[f"exp/{RESULTS}"]


@pytest.mark.parametrize("said", [BOTH, Archives(logs=PENDING, results=PENDING), Archives()])
def test_what_an_earlier_launcher_stored_is_neither_stored_again_nor_forgotten(
    make: Any, storage: FakeStorage, ended: SimulationFolder, record: SimulationRecord, said: Archives
) -> None:
    make().store(5, told)
    record.final = final_word(said)
    remove_folder(ended.experiment)
    assert make().store(5, told) == BOTH
    assert len(storage.writes) == 2


# -- after a simulation that took too much disk ----------------------------------------------------------------------


def test_results_that_there_is_no_room_for_are_left_out_and_the_log_says_so(
    make: Any, disk: DiskUse, ended: SimulationFolder, storage: FakeStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "has_room_for", lambda size: size < 2)
    archiving = make()
    archiving.may_leave_out_results = True
    assert archiving.store(5, told) == Archives(logs=LOGS)
    assert storage.writes == [LOGS]
    assert "The results, 0 MB, are not kept: the disk has no room for them" in ended.log.read_text()


def test_results_are_kept_where_there_is_room(make: Any) -> None:
    archiving = make()
    archiving.may_leave_out_results = True
    assert archiving.store(5, told) == BOTH


def test_results_of_a_simulation_that_did_nothing_wrong_are_never_left_out(
    make: Any, disk: DiskUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "has_room_for", lambda _: False)
    assert make().store(5, told) == BOTH
