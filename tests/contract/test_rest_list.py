"""`GET /simulation` and `GET /simulation/<id>`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from sqlalchemy import event

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Archives, Status
from nrp_gateway import mirror
from tests.fakes import FakeLauncher, FakeSimulation
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until


def listed(gateway: RunningGateway, query: str = "", **options: Any) -> list[int]:
    answer = gateway.get(f"/simulation{query}", **options)
    assert answer.status_code == 200, answer.text
    return [each["simulationID"] for each in answer.get_json()]


@pytest.fixture
def alone(installation: Installations) -> RunningGateway:
    """A gateway that no other test launches at."""
    installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    return gateway


def test_list_is_empty_at_first(alone: RunningGateway) -> None:
    assert alone.get("/simulation").get_json() == []


def test_list_is_ascending_by_id_and_holds_what_has_ended(alone: RunningGateway) -> None:
    launched = [alone.launch() for _ in range(3)]
    alone.ask_state(launched[1], "stopped")
    assert listed(alone) == launched


def test_list_shows_each_simulation_as_it_is_shown_alone(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    [shown] = [each for each in gateway.get("/simulation").get_json() if each["simulationID"] == simulation.id]
    assert shown == gateway.get(f"/simulation/{simulation.id}").get_json()


def test_simulation_that_ended_a_day_ago_is_not_listed_and_can_be_asked_for(
    alone: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert mirror.RECENT_S == 24 * 3600
    ended, running = alone.launch(), alone.launch()
    alone.ask_state(ended, "stopped")
    assert listed(alone) == [ended, running]
    monkeypatch.setattr(mirror, "RECENT_S", 0.0)
    assert listed(alone) == [running]
    assert alone.state(ended) == "stopped"
    assert listed(alone, "?state=stopped") == [ended]
    assert listed(alone, "?offset=0") == [ended, running]


@pytest.mark.parametrize("query", ["?state=started&state=stopped", "?state=started,stopped"])
def test_list_is_filtered_by_states(alone: RunningGateway, query: str) -> None:
    first, second, third = (alone.launch() for _ in range(3))
    alone.ask_state(second, "started")
    alone.ask_state(third, "stopped")
    assert listed(alone, query) == [second, third]
    assert listed(alone, "?state=paused") == [first]


def test_list_is_filtered_by_experiment_and_owner(alone: RunningGateway) -> None:
    alone.launch("one")
    other = alone.launch("other")
    assert listed(alone, "?experimentID=other") == [other]
    assert listed(alone, "?experimentID=other&owner=default-owner") == [other]
    assert listed(alone, "?owner=somebody") == []


def test_list_comes_in_pages_when_asked_for(alone: RunningGateway) -> None:
    launched = [alone.launch() for _ in range(5)]
    assert listed(alone, "?limit=2") == launched[:2]
    assert listed(alone, "?limit=2&offset=2") == launched[2:4]
    assert listed(alone, "?offset=4") == launched[4:]
    assert listed(alone, "?limit=0") == []
    assert alone.get("/simulation?limit=2").headers["X-Total-Count"] == "5"
    assert "X-Total-Count" not in alone.get("/simulation").headers


@pytest.mark.parametrize("query", ["?state=flying", "?limit=-1", "?limit=x", "?offset=-3", "?limit=1e3"])
def test_filter_that_makes_no_sense_is_400(gateway: RunningGateway, query: str) -> None:
    answer = gateway.get(f"/simulation{query}")
    assert (answer.status_code, answer.get_json()["type"]) == (400, "Client error")


def test_times_are_the_last_that_the_server_reported(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    gateway.ask_state(simulation.id, "started")
    simulation.say_times(
        Status(state=SimulationState.STARTED, real_time=0.5, simulation_time=2.07, simulation_time_left=7.93)
    )

    def times() -> tuple[float, float, float]:
        body = gateway.get(f"/simulation/{simulation.id}").get_json()
        return body["realTime"], body["simulationTime"], body["simulationTimeLeft"]

    wait_until(lambda: times() == (0.5, 2.07, 7.93))


@pytest.mark.parametrize(
    "noise", [b"no JSON", b'{"state": "flying"}', b'{"progress": {"task": "x"}}', b"[]", b'{"state": NaN}', b"\xff"]
)
def test_nonsense_on_the_status_topic_harms_nobody(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation, noise: bytes
) -> None:
    launcher.bus.publish(launcher.topics.status(simulation.id), noise)
    launcher.bus.publish(launcher.topics.lifecycle(simulation.id), noise, qos=1)
    assert gateway.ask_state(simulation.id, "started").get_json() == {"state": "started"}
    assert gateway.get(f"/simulation/{simulation.id}").status_code == 200


def test_archives_are_named_once_they_are_stored(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    simulation.end(SimulationState.STOPPED, logs="pending", results="pending")
    gateway.await_state(simulation.id, "stopped")
    simulation.store_archives(Archives(logs="a.log.zip", results="a.data.zip"))

    def names() -> tuple[str, str]:
        body = gateway.get(f"/simulation/{simulation.id}").get_json()
        return body["logs"], body["results"]

    wait_until(lambda: names() == ("a.log.zip", "a.data.zip"))


def test_list_is_answered_without_asking_the_database(alone: RunningGateway) -> None:
    alone.gateway.catalogue.add(
        experiment_id="demo",
        configuration="c",
        main_script="m",
        owner="somebody",
        context_id=None,
        slot=None,
        launcher="fake",
    )
    wait_until(lambda: len(listed(alone)) == 1)
    asked: list[int] = []

    def note(*_: object) -> None:
        asked.append(threading.get_ident())

    event.listen(alone.gateway.catalogue._engine, "before_cursor_execute", note)
    assert len(listed(alone)) == 1
    assert threading.get_ident() not in asked  # the requests of the test client are answered in its own thread
