"""What launcher, simulation server and the launcher after that note down in a simulation's folder."""

from __future__ import annotations

import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import Launch, LifecycleMessage
from nrp_simserver.launcher.simulation_record import SimulationRecord, read_snapshot, write_snapshot
from nrp_simserver.simulation_folder import Credentials, Journal, SimulationFolder, remove_folder

LAUNCH = Launch(
    deadline=0,
    simulation_id=7,
    experiment_id="exp",
    configuration="simulation_config.json",
    main_script="main_script.py",
    owner="owner",
    sealed_token="sealed",
)


def record() -> SimulationRecord:
    return SimulationRecord(launch=LAUNCH, incarnation="0" * 32, launched_at=datetime(2026, 11, 22, tzinfo=UTC))


# -- journal -----------------------------------------------------------------------------------------------------------


def test_journal_is_read_as_it_was_written(folder: SimulationFolder) -> None:
    journal = Journal(state=SimulationState.STARTED, seq=3, simulation_time=1.5, stopping=True, error="why")
    folder.write_journal(journal)
    assert folder.read_journal() == journal


@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", b'{"seq": "many"}', b"\xff\xfe"])
def test_journal_that_is_missing_or_overwritten_is_a_fresh_one(folder: SimulationFolder, content: bytes | None) -> None:
    if content is not None:
        folder.journal.write_bytes(content)
    assert folder.read_journal() == Journal()


# -- record ------------------------------------------------------------------------------------------------------------


def test_record_is_read_as_it_was_written(folder: SimulationFolder) -> None:
    written = record()
    written.collected.append("simulation_7.log.zip")
    written.final = LifecycleMessage(
        source_node="nrp_launcher_x",
        source_state=SimulationState.PAUSED,
        event=SimulationEvent.STOPPED,
        target_state=SimulationState.STOPPED,
        seq=4,
    )
    written.write(folder)
    read = SimulationRecord.read(folder)
    assert read is not None
    assert read.model_dump() == written.model_dump()


@pytest.mark.parametrize("content", [None, b"", b"{}"])
def test_folder_without_a_record_says_so(folder: SimulationFolder, content: bytes | None) -> None:
    if content is not None:
        (folder.path / "record.json").write_bytes(content)
    assert SimulationRecord.read(folder) is None


def test_snapshot_is_read_as_it_was_written(folder: SimulationFolder) -> None:
    assert read_snapshot(folder) is None
    write_snapshot(folder, {"a/b.txt": (3, 1_700_000_000_123_456_789)})
    assert read_snapshot(folder) == {"a/b.txt": (3, 1_700_000_000_123_456_789)}


# -- the folder's end --------------------------------------------------------------------------------------------------


def test_folder_is_removed_with_links_but_not_what_they_lead_to(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").write_text("content")
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep/link").symlink_to(kept)
    remove_folder(folder)
    assert not folder.exists()
    assert (kept / "file").exists()


def test_folder_that_is_gone_or_none_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    remove_folder(tmp_path / "gone")
    (tmp_path / "file").write_text("no folder")
    remove_folder(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []
    assert caplog.text == ""


def test_folder_that_its_owner_locked_is_removed() -> None:
    program = """
import os, tempfile
from pathlib import Path
from nrp_simserver.simulation_folder import remove_folder
if os.getuid() == 0:
    os.seteuid(65534)  # nothing is locked for root
folder = Path(tempfile.mkdtemp())
(folder / "deep/er").mkdir(parents=True)
(folder / "deep/er/file").write_text("content")
(folder / "closed").mkdir(0o000)
(folder / "deep/er").chmod(0o500)
(folder / "deep").chmod(0o000)
remove_folder(folder)
assert not folder.exists(), list(folder.rglob("*"))
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 0, ended.stderr


def test_credentials_are_taken_once_and_read_by_nobody_else(folder: SimulationFolder) -> None:
    credentials = Credentials(username="user", password="s3cret")
    folder.write_credentials(Credentials(username="earlier", password="earlier"))
    folder.write_credentials(credentials)
    (file,) = [each for each in folder.path.iterdir() if "credentials" in each.name]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "s3cret" not in repr(credentials)
    assert folder.take_credentials() == credentials
    with pytest.raises(FileNotFoundError):
        folder.take_credentials()
