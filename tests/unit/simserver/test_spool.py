"""The spool keeps archives until the Storage Server has taken them, whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nrp_common.errors import InvalidToken, StorageError, StorageForbidden, StorageUnavailable
from nrp_common.messages import ArchiveKind, Archives
from nrp_simserver.launcher import spool as spool_module
from nrp_simserver.launcher.spool import Manifest, Spool
from nrp_simserver.simulation_folder import remove_folder
from tests.unit.simserver.fake_storage import FakeStorage
from tests.waiting import wait_until

BOTH = Archives(logs="logs.zip", results="results.zip")


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool_module, "FIRST_RETRY_AFTER_S", 0.02)


class Spools:
    """Spools over one directory, as launchers have them one after another."""

    def __init__(self, directory: Path, storage: FakeStorage) -> None:
        self.directory = directory
        self.storage = storage
        self.stored_late: list[tuple[int, Archives]] = []
        self._open: list[Spool] = []

    def next(self) -> Spool:
        spool = Spool(self.directory, self.storage.of, lambda *news: self.stored_late.append(news))
        self._open.append(spool)
        return spool

    def close(self) -> None:
        for spool in self._open:
            spool.close()


@pytest.fixture
def spools(tmp_path: Path, storage: FakeStorage) -> Iterator[Spools]:
    spools = Spools(tmp_path / "spool", storage)
    yield spools
    spools.close()


def put(spool: Spool, simulation_id: int = 7, *, archives: Archives = BOTH, **manifest: object) -> None:
    folder = spool.folder_for(simulation_id)
    waiting = [kind for kind in ArchiveKind if archives.of(kind)]
    for kind in waiting:
        (folder / str(archives.of(kind))).write_text(f"the {kind}")
    given = {"experiment_id": "exp", "owner": "owner", "sealed_token": "old", **manifest}
    spool.put(Manifest(simulation_id=simulation_id, archives=archives, waiting=waiting, **given))  # type: ignore[arg-type]


def test_archives_are_stored_and_the_spool_is_empty(spools: Spools, storage: FakeStorage) -> None:
    spool = spools.next()
    put(spool)
    assert spool.store(7) == BOTH
    assert storage.files == {"exp/logs.zip": b"the logs", "exp/results.zip": b"the results"}
    assert list(spools.directory.iterdir()) == []
    assert spool.store(7) is None


def test_spool_that_was_deleted_is_made_again(spools: Spools, storage: FakeStorage) -> None:
    spool = spools.next()
    remove_folder(spools.directory)
    assert spool.waiting() == (0, 0)
    put(spool)
    assert spool.store(7) == BOTH


def test_what_was_stored_before_a_failure_is_not_stored_again(spools: Spools, storage: FakeStorage) -> None:
    spool = spools.next()
    put(spool)
    storage.trouble = lambda _token, path: StorageUnavailable() if path == "results.zip" else None
    with pytest.raises(StorageUnavailable):
        spool.store(7)
    storage.trouble = lambda _token, _path: None
    assert spools.next().store(7) == BOTH
    assert storage.writes == ["logs.zip", "results.zip"]


def test_files_that_the_archives_replace_are_deleted_after_they_are_stored(
    spools: Spools, storage: FakeStorage
) -> None:
    storage.files["exp/so_far.zip"] = b"so far"
    spool = spools.next()
    put(spool, obsolete=["so_far.zip"])
    storage.trouble = lambda _token, path: StorageUnavailable() if path == "results.zip" else None
    with pytest.raises(StorageUnavailable):
        spool.store(7)
    assert "exp/so_far.zip" in storage.files
    storage.trouble = lambda _token, _path: None
    spool.store(7)
    assert "exp/so_far.zip" not in storage.files


def test_failed_attempt_is_repeated_until_it_succeeds_and_told_once(spools: Spools, storage: FakeStorage) -> None:
    failures = iter([StorageUnavailable(), StorageError("disk full"), OSError("odd"), ValueError("odder")])
    storage.trouble = lambda _token, _path: next(failures, None)
    spool = spools.next()
    spool.start()
    put(spool)
    spool.try_again_later(7, StorageUnavailable())
    wait_until(lambda: spools.stored_late)
    assert spools.stored_late == [(7, BOTH)]
    assert next(failures, None) is None


def test_spool_of_an_ended_launcher_is_stored_by_the_next(spools: Spools, storage: FakeStorage) -> None:
    put(spools.next(), 7)
    put(spools.next(), 8, archives=Archives(logs="other.zip"))
    spools.next().start()
    wait_until(lambda: len(spools.stored_late) == 2)
    assert sorted(number for number, _ in spools.stored_late) == [7, 8]
    assert set(storage.files) == {"exp/logs.zip", "exp/results.zip", "exp/other.zip"}


def test_what_was_not_finished_writing_is_dropped_by_the_next(spools: Spools) -> None:
    unfinished = spools.next().folder_for(7)
    (unfinished / "logs.zip.part").write_text("half")
    spools.next()
    assert not unfinished.exists()


def test_manifest_that_cannot_be_read_is_left_alone(spools: Spools, caplog: pytest.LogCaptureFixture) -> None:
    spool = spools.next()
    put(spool)
    manifest = spools.directory / "7/manifest.json"
    manifest.write_text("{")
    assert spools.next().store(7) is None
    assert (spools.directory / "7/logs.zip").exists()
    assert str(manifest) in caplog.text


def test_newest_token_of_the_owner_is_used(spools: Spools, storage: FakeStorage) -> None:
    spool = spools.next()
    spool.learn_token("owner", "new")
    spool.learn_token("somebody else", "another")
    put(spool)
    spool.store(7)
    assert set(storage.tokens) == {"new"}


@pytest.mark.parametrize("refusal", [StorageForbidden, InvalidToken])
def test_refused_archives_are_tried_at_once_with_a_new_token_of_their_owner(
    spools: Spools, storage: FakeStorage, refusal: type[StorageError]
) -> None:
    storage.trouble = lambda token, _path: refusal() if token == "old" else None
    spool = spools.next()
    spool.start()
    put(spool)
    spool.try_again_later(7, refusal())
    spool.learn_token("owner", "new")
    wait_until(lambda: spools.stored_late)
    assert storage.tokens[0] == "new"


def test_refused_archives_are_not_tried_in_vain(
    spools: Spools, storage: FakeStorage, caplog: pytest.LogCaptureFixture
) -> None:
    storage.trouble = lambda _token, _path: StorageForbidden("not yours")
    spool = spools.next()
    spool.start()
    put(spool)
    spool.try_again_later(7, StorageForbidden("not yours"))
    put(spool, 8, archives=Archives(logs="other.zip"))
    storage.trouble = lambda _token, _path: None
    spool.learn_token("somebody else", "another")
    spool.try_again_later(8, StorageUnavailable())
    wait_until(lambda: spools.stored_late)
    assert spools.stored_late == [(8, Archives(logs="other.zip"))]
    assert "were refused (not yours). They stay in" in caplog.text


def test_closed_spool_keeps_what_waits(spools: Spools) -> None:
    spool = spools.next()
    spool.start()
    put(spool)
    spool.close()
    spool.try_again_later(7, StorageUnavailable())
    assert spool.manifest(7) is not None


def test_what_waits_is_told_with_its_size(spools: Spools, storage: FakeStorage) -> None:
    spool = spools.next()
    assert spool.waiting() == (0, 0)
    put(spool, 7)
    put(spool, 8)
    simulations, size = spool.waiting()
    assert simulations == 2
    assert size > 2 * len("the logs" + "the results")
    spool.store(7)
    assert spool.waiting()[0] == 1
