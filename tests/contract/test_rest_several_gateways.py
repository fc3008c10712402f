"""Several gateways behind one address: they share a catalogue, and give the same answers."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from nrp_common.lifecycle import SimulationState
from tests.fakes import FakeLauncher
from tests.gateways import Installations, RunningGateway
from tests.postgresql import PostgreSQL
from tests.waiting import wait_until

Pair = tuple[RunningGateway, RunningGateway]


@pytest.fixture
def launcher(installation: Installations) -> FakeLauncher:
    return installation.launcher()


@pytest.fixture
def pair(installation: Installations, launcher: FakeLauncher, postgresql: PostgreSQL) -> Pair:
    """Two gateways."""
    url = postgresql.database()
    first, second = (installation.gateway(catalogue_url=url) for _ in range(2))
    for gateway in (first, second):
        gateway.await_launcher()
    return first, second


def seen(gateway: RunningGateway) -> list[dict[str, Any]]:
    return list(gateway.get("/simulation").get_json())


def test_they_give_the_same_answers(pair: Pair) -> None:
    first, second = pair
    ids = [gateway.launch() for gateway in (first, second, first)]
    first.ask_state(ids[0], "started")
    second.ask_state(ids[1], "stopped")
    wait_until(lambda: seen(first) == seen(second) and len(seen(first)) == 3)
    assert [each["state"] for each in seen(first)] == ["started", "stopped", "paused"]


def test_one_commands_what_another_launched(pair: Pair) -> None:
    first, second = pair
    simulation_id = first.launch()
    assert second.ask_state(simulation_id, "started").get_json() == {"state": "started"}
    assert first.ask_state(simulation_id, "paused").get_json() == {"state": "paused"}
    second.await_state(simulation_id, "paused")


def test_each_knows_at_once_what_the_other_has_just_launched(pair: Pair) -> None:
    first, second = pair
    assert second.state(first.launch()) == "paused"


def test_ids_are_given_once(pair: Pair) -> None:
    ids: list[int] = []
    threads = [
        threading.Thread(target=lambda gateway=gateway: ids.extend(gateway.launch() for _ in range(8)))
        for gateway in pair
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 16


def test_what_one_removed_is_gone_from_both(pair: Pair) -> None:
    first, second = pair
    simulation_id = first.launch()
    assert second.state(simulation_id) == "paused"
    assert first.delete(f"/simulation/{simulation_id}").status_code == 204
    wait_until(lambda: second.get(f"/simulation/{simulation_id}").status_code == 404)


def test_a_slot_is_taken_for_both(pair: Pair) -> None:
    first, second = pair
    first.launch(through="/slot/0")
    assert second.post("/slot/0/simulation", {"experimentID": "demo"}).status_code == 409


def test_they_share_one_queue(pair: Pair, launcher: FakeLauncher) -> None:
    first, second = pair
    launcher.capacity = 1
    launcher.announce()
    wait_until(lambda: all(gateway.gateway.presences.capacity == 1 for gateway in pair))
    body = {"experimentID": "demo", "queue": True}
    running, *waiting = (gateway.post("/simulation", body).get_json()["simulationID"] for gateway in (*pair, *pair))
    wait_until(lambda: all([each["queuePosition"] for each in seen(gateway)] == [None, 1, 2, 3] for gateway in pair))
    for ending, next_one in zip([running, *waiting], waiting, strict=False):
        launcher.simulations[ending].end(SimulationState.STOPPED)
        launcher.announce()
        first.await_state(next_one, "paused")
        second.await_state(next_one, "paused")
    assert list(launcher.simulations) == [running, *waiting]


def test_the_one_that_is_left_goes_on(pair: Pair, installation: Installations) -> None:
    first, second = pair
    simulation_id = first.launch()
    installation.end(first)
    assert second.ask_state(simulation_id, "started").get_json() == {"state": "started"}
    assert second.launch() > simulation_id
