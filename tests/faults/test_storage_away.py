"""Logs and results reach the experiment, whenever the Storage Server is there to take them again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab import Lab
from tests.launchers import Launched, RunningLauncher
from tests.waiting import wait_until

WRITING = "open('result.txt', 'w').write('42')"


@pytest.fixture
def completed(launcher: RunningLauncher) -> Iterator[Launched]:
    """A simulation whose script wrote a result, and has ended."""
    simulation = launcher.started(WRITING)
    simulation.await_transition("completed")
    yield simulation
    launcher.storage.heal()
    if not simulation.finals:
        simulation.command("stopped")
        simulation.await_final()


def assert_stored_once(simulation: Launched) -> None:
    """Where the archives are was said after the final word; each was taken once, and is whole."""
    wait_until(lambda: simulation.archives, 20)
    simulation.assert_nothing_is_left()
    assert len(simulation.archives) == 1
    archives = simulation.archives[0]
    assert simulation.stored(archives["results"]) == {"result.txt": b"42"}
    assert simulation.log_in(archives["logs"])
    stored = [name for name in simulation.launcher.storage.names(simulation.experiment) if name.endswith(".zip")]
    assert sorted(stored) == sorted([archives["logs"], archives["results"]])
    topics = [seen.topic for seen in simulation.launcher.wire.seen if seen.payload]
    assert topics.index(simulation.topics.archives(simulation.id)) > max(
        place for place, topic in enumerate(topics) if topic == simulation.topics.lifecycle(simulation.id)
    )


@pytest.mark.alone
def test_storage_that_goes_away_during_the_run_gets_the_archives_when_it_is_back(completed: Launched) -> None:
    completed.launcher.storage.stop()
    stopped_at = time.monotonic()
    completed.command("stopped")
    final = completed.await_final(7)
    assert time.monotonic() - stopped_at < 6.5
    assert (final["event"], final["logs"], final["results"]) == ("stopped", "pending", "pending")
    assert not completed.archives
    completed.launcher.storage.start()
    assert_stored_once(completed)


@pytest.mark.alone
def test_storage_that_hangs_on_an_upload_holds_up_neither_the_place_nor_the_final_word(completed: Launched) -> None:
    completed.launcher.storage.hang(".zip", times=1)
    completed.command("stopped")
    wait_until(lambda: completed.launcher.presences[-1].json["running"] == 0)
    wait_until(completed.spooled.exists)
    wait_until(lambda: not (completed.folder / "experiment").exists())
    final = completed.await_final(7)
    assert (final["logs"], final["results"]) == ("pending", "pending")
    completed.launcher.storage.heal()
    assert_stored_once(completed)


def test_archives_that_wait_can_be_asked_for(completed: Launched) -> None:
    completed.launcher.storage.answer(503, ".zip")
    completed.command("stopped")
    wait_until(lambda: completed.launcher.storage.count("POST", f"_simulation_{completed.id}."))
    completed.launcher.storage.heal()
    archive = completed.collect("results").archive
    assert completed.stored(archive) == {"result.txt": b"42"}
    assert completed.await_final()["results"] == archive


def test_refused_archives_are_stored_with_the_token_of_the_owners_next_launch(completed: Launched) -> None:
    storage = completed.launcher.storage
    del storage.users[storage.TOKEN]
    newer = storage.add_user(storage.OWNER)
    completed.command("stopped")
    assert completed.await_final()["logs"] == "pending"
    wait_until(lambda: "were refused" in completed.launcher.log)
    following = completed.launcher.launch(token=newer)
    assert_stored_once(completed)
    following.await_transition("initialized")
    following.command("stopped")
    following.await_final()
    following.assert_nothing_is_left()
    storage.users[storage.TOKEN] = storage.OWNER


def test_logs_of_ten_simulations_that_end_in_the_minute_that_it_is_away_are_stored_once(tmp_path: Path) -> None:
    lab = Lab(tmp_path, launchers=2)
    try:
        lab.start()
        ids = lab.started(10)
        lab.storage.stop()
        away_since = time.monotonic()
        for each in ids:
            assert lab.client.ask(each, "stopped").state == "stopped"
        time.sleep(60 - (time.monotonic() - away_since))
        assert not list(lab.storage.root.glob("*/*.log.zip"))
        lab.storage.start()
        assert lab.violations(timeout=90) == []
        assert len(list(lab.storage.root.glob("*/*.log.zip"))) == 10
    finally:
        lab.close()
