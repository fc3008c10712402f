"""A gateway that restarts, and a broker that is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from werkzeug.test import TestResponse

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import CommandEvent
from nrp_gateway import caretaker, commands
from tests.fakes import FakeLauncher
from tests.gateways import Installations, RunningGateway, in_background
from tests.mosquitto import Mosquitto
from tests.waiting import wait_until


def test_restarted_gateway_knows_what_was_launched(installation: Installations) -> None:
    installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    gateway.launch()
    shown = gateway.get("/simulation").get_json()
    installation.end(gateway)
    assert installation.gateway().get("/simulation").get_json() == shown


def test_restarted_gateway_learns_what_happened_meanwhile(installation: Installations) -> None:
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    first, second = (launcher.simulations[gateway.launch()] for _ in range(2))
    installation.end(gateway)
    first.report(SimulationEvent.STARTED)
    first.report(SimulationEvent.COMPLETED)
    second.end(SimulationState.FAILED, "out of memory")
    gateway = installation.gateway()
    gateway.await_state(first.id, "completed")
    gateway.await_state(second.id, "failed")
    assert gateway.get(f"/simulation/{second.id}").get_json()["error"] == "out of memory"


def test_restarted_gateway_rules_what_runs(installation: Installations) -> None:
    installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    simulation_id = gateway.launch()
    installation.end(gateway)
    gateway = installation.gateway()
    gateway.await_launcher()
    assert gateway.ask_state(simulation_id, "started").get_json() == {"state": "started"}
    assert gateway.ask_state(simulation_id, "stopped").get_json() == {"state": "stopped"}


def test_restarted_gateway_fails_what_nobody_reports_any_more(
    installation: Installations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caretaker, "ABSENCE_GRACE_S", 0.2)
    monkeypatch.setattr(caretaker, "ROUND_S", 0.05)
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch()]
    installation.end(gateway)
    simulation.vanish()
    launcher.leave()
    gateway = installation.gateway()
    gateway.await_state(simulation.id, "failed")
    assert "'fake'" in gateway.get(f"/simulation/{simulation.id}").get_json()["error"]


def test_gateways_side_by_side_show_and_rule_the_same(installation: Installations) -> None:
    installation.launcher()
    first, second = installation.gateway(), installation.gateway()
    for each in (first, second):
        each.await_launcher()
    simulation_id = first.launch()
    assert second.ask_state(simulation_id, "started").get_json() == {"state": "started"}
    first.await_state(simulation_id, "started")
    assert first.ask_state(simulation_id, "stopped").get_json() == {"state": "stopped"}
    second.await_state(simulation_id, "stopped")
    second.delete(f"/simulation/{simulation_id}")
    wait_until(lambda: first.get("/simulation").get_json() == [])


def test_ids_are_not_reused_after_a_restart(installation: Installations) -> None:
    installation.launcher()
    gateway = installation.gateway()
    gateway.await_launcher()
    removed = gateway.launch()
    gateway.delete(f"/simulation/{removed}")
    installation.end(gateway)
    gateway = installation.gateway()
    gateway.await_launcher()
    assert gateway.launch() > removed


@pytest.fixture
def broker_to_come(tmp_path: Path) -> Mosquitto:
    return Mosquitto(tmp_path)


def test_gateway_waits_for_a_broker_that_is_not_there(installation: Installations, broker_to_come: Mosquitto) -> None:
    gateway = installation.unconnected_gateway(mqtt_broker_address=str(broker_to_come.address))
    answer = gateway.post("/simulation", {"experimentID": "demo"})
    assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
    assert answer.get_json()["message"] == (f"There is no connection to the MQTT broker at {broker_to_come.address}")
    assert gateway.get("/simulation").get_json() == []
    broker_to_come.start()
    try:
        launcher = FakeLauncher(broker_to_come.address, gateway.topics)
        gateway.await_launcher()
        assert gateway.state(gateway.launch()) == "paused"
        launcher.bus.close(linger_s=0.1)
    finally:
        broker_to_come.stop()


@pytest.fixture
def on_a_broker_of_its_own(
    installation: Installations, broker_to_come: Mosquitto
) -> tuple[RunningGateway, FakeLauncher]:
    broker_to_come.start()
    gateway = installation.gateway(mqtt_broker_address=str(broker_to_come.address))
    launcher = FakeLauncher(broker_to_come.address, gateway.topics)
    gateway.await_launcher()
    return gateway, launcher


def test_command_under_way_when_the_broker_goes_is_503_that_says_so(
    on_a_broker_of_its_own: tuple[RunningGateway, FakeLauncher],
    broker_to_come: Mosquitto,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(commands._TIMEOUTS, CommandEvent.STARTED, 3.0)
    gateway, launcher = on_a_broker_of_its_own
    simulation = launcher.simulations[gateway.launch()]
    answers: list[TestResponse] = []
    try:
        broker_to_come.freeze()  # nobody has noticed anything yet
        asking = in_background(lambda: answers.append(gateway.ask_state(simulation.id, "started")))
        wait_until(lambda: gateway.gateway.bus._pending)
        broker_to_come.stop()
        asking.join()
        (answer,) = answers
        assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
        assert f"The command 'started' to simulation {simulation.id} was not answered" in answer.get_json()["message"]
        assert str(broker_to_come.address) in answer.get_json()["message"]
    finally:
        launcher.bus.close(linger_s=0.1)
        broker_to_come.stop()


def test_state_is_right_after_the_broker_was_away(
    on_a_broker_of_its_own: tuple[RunningGateway, FakeLauncher], broker_to_come: Mosquitto
) -> None:
    gateway, launcher = on_a_broker_of_its_own
    simulation = launcher.simulations[gateway.launch()]
    try:
        broker_to_come.stop()
        wait_until(lambda: not gateway.gateway.bus.is_connected and not launcher.bus.is_connected)
        assert gateway.state(simulation.id) == "paused"
        assert gateway.ask_state(simulation.id, "started").status_code == 503
        simulation.report(SimulationEvent.STARTED)
        simulation.report(SimulationEvent.COMPLETED)
        broker_to_come.start()
        gateway.await_state(simulation.id, "completed")
    finally:
        launcher.bus.close(linger_s=0.1)
        broker_to_come.stop()


def test_launcher_lost_with_the_broker_is_not_believed_to_be_there(
    on_a_broker_of_its_own: tuple[RunningGateway, FakeLauncher], broker_to_come: Mosquitto
) -> None:
    gateway, launcher = on_a_broker_of_its_own
    try:
        broker_to_come.stop()
        wait_until(lambda: not gateway.gateway.bus.is_connected and not launcher.bus.is_connected)
        launcher.bus.close(linger_s=0.0)  # no last will is left
        broker_to_come.start()
        gateway.gateway.bus.wait_until_connected(10)
        wait_until(lambda: gateway.get("/ready").get_json()["launcher"] == "no launcher is connected")
    finally:
        broker_to_come.stop()
