"""`GET /metrics`: who may read it, and that it tells what happened."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from nrp_common.messages import Refusal, Reply
from tests.documented_metrics import SHARED, documented, served
from tests.fakes import FakeLauncher, FakeSimulation, failed, keep_silent, refuse
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until


def families(gateway: RunningGateway, **options: Any) -> dict[str, Metric]:
    answer = gateway.get("/metrics", **options)
    assert answer.status_code == 200, answer.text
    return {family.name: family for family in text_string_to_metric_families(answer.text)}


def figure(gateway: RunningGateway, sample: str, **labels: str) -> float:
    """A sample's value, 0 when there is none."""
    found = [
        each.value
        for family in families(gateway).values()
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    ]
    return sum(found)


@pytest.fixture
def fresh(installation: Installations) -> tuple[RunningGateway, FakeLauncher]:
    """A gateway that has counted nothing yet, and its launcher."""
    launcher, gateway = installation.launcher(capacity=3), installation.gateway()
    gateway.await_launcher()
    return gateway, launcher


# -- who may read them -----------------------------------------------------------------------------------------------


def test_without_authentication_everybody_may(gateway: RunningGateway) -> None:
    answer = gateway.get("/metrics")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain")


def test_open_metrics_are_told_to_who_asks_for_them(gateway: RunningGateway) -> None:
    answer = gateway.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type.startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_with_a_token_who_has_it_may(installation: Installations) -> None:
    gateway = installation.gateway(metrics_token="figures")
    for token in (None, "wrong"):
        refused = gateway.get("/metrics", token=token)
        assert refused.status_code == 401
        assert "NRP_METRICS_TOKEN" in refused.get_json()["message"]
    assert gateway.get("/metrics", token="figures").status_code == 200


def test_with_authentication_and_without_a_token_nobody_may(installation: Installations) -> None:
    storage = installation.storage()
    storage.users["anns-token"] = "ann"
    with_users = {"authentication": "storage", "storage_url": storage.url, "secret_key": "k"}
    gateway = installation.gateway(**with_users)
    for token in (None, "", "anns-token"):
        assert gateway.get("/metrics", token=token).status_code == 401
    told = installation.gateway(**with_users, metrics_token="figures")
    assert told.get("/metrics", token="anns-token").status_code == 401
    assert told.get("/metrics", token="figures").status_code == 200


def test_they_are_not_below_slots(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    assert gateway.get("/slot/0/metrics").status_code == 404


# -- what they tell --------------------------------------------------------------------------------------------------


def test_launches_are_counted_by_what_became_of_them(fresh: tuple[RunningGateway, FakeLauncher]) -> None:
    gateway, launcher = fresh
    gateway.launch()
    launcher.on_launch = failed
    gateway.launch()
    launcher.refusal = Reply(error="full", refusal=Refusal.FULL)
    assert gateway.post("/simulation", {"experimentID": "demo"}).status_code == 409
    for outcome in ("paused", "failed", "refused"):
        assert figure(gateway, "nrp_launches_total", outcome=outcome) == 1
    for phase, times in (("hand_over", 3), ("get_ready", 2)):
        assert figure(gateway, "nrp_launch_phase_duration_seconds_count", phase=phase) == times


def test_a_launch_that_waits_is_counted_in_the_queue_and_when_it_is_taken(
    fresh: tuple[RunningGateway, FakeLauncher],
) -> None:
    gateway, launcher = fresh
    running = [gateway.launch() for _ in range(3)]
    gateway.post("/simulation", {"experimentID": "demo", "queue": True})
    assert figure(gateway, "nrp_launch_queue_length") == 1
    assert figure(gateway, "nrp_launches_total", outcome="queued") == 1
    gateway.ask_state(running[0], "stopped")
    wait_until(lambda: figure(gateway, "nrp_launch_phase_duration_seconds_count", phase="queue") == 1)
    assert figure(gateway, "nrp_launch_queue_length") == 0
    assert len(launcher.simulations) == 4


def test_commands_are_timed_by_event_and_outcome(fresh: tuple[RunningGateway, FakeLauncher]) -> None:
    gateway, launcher = fresh
    number = gateway.launch()
    simulation = launcher.simulations[number]
    gateway.ask_state(number, "started")
    simulation.on_command = refuse(Refusal.INVALID, "not now")
    assert gateway.ask_state(number, "paused").status_code == 400
    timed = "nrp_command_duration_seconds_count"
    assert figure(gateway, timed, event="started", outcome="reached") == 1
    assert figure(gateway, timed, event="paused", outcome="refused") == 1
    assert figure(gateway, timed) == 2


def test_a_command_that_nobody_answers_is_a_timeout(
    fresh: tuple[RunningGateway, FakeLauncher], monkeypatch: pytest.MonkeyPatch
) -> None:
    from nrp_common.messages import CommandEvent
    from nrp_gateway import commands

    monkeypatch.setitem(commands._TIMEOUTS, CommandEvent.STARTED, 0.2)
    gateway, launcher = fresh
    number = gateway.launch()
    launcher.simulations[number].on_command = keep_silent
    assert gateway.ask_state(number, "started").status_code == 504
    assert figure(gateway, "nrp_command_duration_seconds_count", event="started", outcome="timeout") == 1


def test_states_and_room_are_those_of_now(fresh: tuple[RunningGateway, FakeLauncher]) -> None:
    gateway, _ = fresh
    first, second, _third = gateway.launch(), gateway.launch(), gateway.launch()
    gateway.ask_state(first, "started")
    gateway.ask_state(second, "stopped")
    assert {state: figure(gateway, "nrp_simulations", state=state) for state in ("paused", "started", "stopped")} == {
        "paused": 1, "started": 1, "stopped": 1,
    }  # fmt: skip
    wait_until(lambda: figure(gateway, "nrp_running") == 2)
    assert (figure(gateway, "nrp_launchers"), figure(gateway, "nrp_capacity")) == (1, 3)
    assert figure(gateway, "nrp_bus_connected") == 1


def test_requests_are_told_by_route_and_never_by_what_clients_write(gateway: RunningGateway) -> None:
    gateway.get("/simulation/123/state")
    gateway.get("/simulation/456/state")
    gateway.get("/nowhere/secret-name")
    gateway.call("BREW", "/simulation")
    labels = [
        each.labels
        for each in families(gateway)["nrp_http_request_duration_seconds"].samples
        if each.name.endswith("_count")
    ]
    states = {"method": "GET", "route": "/simulation/<simulation_id>/state", "status": "4xx"}
    assert labels.count(states) == 1
    assert {"method": "GET", "route": "other", "status": "4xx"} in labels
    assert {each["method"] for each in labels} <= {"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "other"}
    assert {"other"} <= {each["method"] for each in labels}


def test_they_name_nobody(fresh: tuple[RunningGateway, FakeLauncher], simulation: FakeSimulation) -> None:
    gateway, _ = fresh
    gateway.launch("a_secret_experiment")
    text = gateway.get("/metrics").text
    for name in ("a_secret_experiment", "default-owner", simulation.incarnation):
        assert name not in text


def test_a_catalogue_that_fails_is_counted(installation: Installations, tmp_path: Path) -> None:
    folder = tmp_path / "catalogue"
    gateway = installation.gateway(catalogue_url=f"sqlite:///{folder}/c.sqlite")
    before = figure(gateway, "nrp_catalogue_errors_total")
    gateway.gateway._caretaker.close()  # else it would open the database again meanwhile
    gateway.gateway.catalogue.close()
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    assert gateway.get("/ready").status_code == 503
    assert figure(gateway, "nrp_catalogue_errors_total") > before


def test_every_name_is_one_that_prometheus_takes_and_of_this_backend(gateway: RunningGateway) -> None:
    for name in families(gateway):
        assert re.fullmatch(r"(nrp|process)_[a-z0-9_]+", name), name


def test_all_that_is_served_is_documented_and_the_other_way_round(
    gateway: RunningGateway, simulation: FakeSimulation
) -> None:
    gateway.ask_state(simulation.id, "started")
    assert served(gateway.get("/metrics").text) == documented(SHARED, "Gateway")
