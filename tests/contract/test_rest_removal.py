"""`DELETE /simulation/<id>`."""

from __future__ import annotations

import pytest
from werkzeug.test import TestResponse

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Archives, Reply
from nrp_gateway import commands
from tests.fakes import FakeLauncher, FakeSimulation, keep_silent
from tests.gateways import Installations, RunningGateway, in_background
from tests.waiting import wait_until


def retained(launcher: FakeLauncher, simulation: FakeSimulation) -> dict[str, bytes]:
    """A view, kept up to date, of what the broker keeps of a simulation."""
    kept: dict[str, bytes] = {}

    def note(topic: str, payload: bytes) -> None:
        kept[topic] = payload
        if not payload:
            del kept[topic]

    launcher.bus.subscribe(launcher.topics.simulation(simulation.id, "#"), note)
    return kept


def test_removed_simulation_is_gone(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    answer = gateway.delete(f"/simulation/{simulation.id}")
    assert (answer.status_code, answer.data) == (204, b"")
    assert gateway.get(f"/simulation/{simulation.id}").status_code == 404
    assert simulation.id not in [each["simulationID"] for each in gateway.get("/simulation").get_json()]
    assert gateway.delete(f"/simulation/{simulation.id}").status_code == 404


@pytest.mark.parametrize("state", ["paused", "started"])
def test_running_simulation_is_stopped_first(gateway: RunningGateway, simulation: FakeSimulation, state: str) -> None:
    gateway.ask_state(simulation.id, state)
    gateway.delete(f"/simulation/{simulation.id}")
    assert simulation.state is SimulationState.STOPPED


def test_removal_clears_what_is_retained(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation
) -> None:
    simulation.end(SimulationState.FAILED, "out of memory")
    simulation.store_archives(Archives(logs="a.log.zip"))
    for leaf in ("data", "welcome"):
        launcher.bus.publish(launcher.topics.simulation(simulation.id, leaf), b"[]", qos=1, retain=True)
    gateway.await_state(simulation.id, "failed")
    kept = retained(launcher, simulation)
    wait_until(lambda: len(kept) == 5)
    gateway.delete(f"/simulation/{simulation.id}")
    wait_until(lambda: not kept)


def test_simulation_that_does_not_stop_is_given_up_and_removed(
    gateway: RunningGateway,
    launcher: FakeLauncher,
    simulation: FakeSimulation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commands, "ANSWERED_WITHIN_S", 0.1)
    monkeypatch.setattr(commands, "STOPPED_WITHIN_S", 0.2)
    simulation.on_command = keep_silent
    kept = retained(launcher, simulation)
    assert gateway.delete(f"/simulation/{simulation.id}").status_code == 204
    assert gateway.get(f"/simulation/{simulation.id}").status_code == 404
    lifecycle = launcher.topics.lifecycle(simulation.id)
    wait_until(lambda: b'"target_state":"failed"' in kept.get(lifecycle, b""))  # who comes back reads the verdict


def test_late_report_does_not_bring_a_removed_simulation_back(
    gateway: RunningGateway, launcher: FakeLauncher, simulation: FakeSimulation
) -> None:
    gateway.delete(f"/simulation/{simulation.id}")
    simulation.end(SimulationState.FAILED, "late")
    other = gateway.launch()  # heard after the report
    assert gateway.get(f"/simulation/{simulation.id}").status_code == 404
    assert gateway.state(other) == "paused"


def test_removal_without_launcher_and_server_succeeds(installation: Installations) -> None:
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch()]
    simulation.vanish()
    launcher.leave()
    wait_until(lambda: not gateway.gateway.presences.capacity)
    assert gateway.delete(f"/simulation/{simulation.id}").status_code == 204
    assert gateway.get("/simulation").get_json() == []


def test_stop_of_a_simulation_that_is_removed_meanwhile_is_404(
    gateway: RunningGateway, simulation: FakeSimulation
) -> None:
    answers: list[TestResponse] = []
    simulation.on_command = lambda stopped, _, responder: responder.reply(Reply(state=stopped.state))
    stopping = in_background(lambda: answers.append(gateway.ask_state(simulation.id, "stopped")))
    wait_until(lambda: simulation.commands)
    gateway.gateway.mirror.remove(simulation.id)
    stopping.join()
    assert answers[0].status_code == 404


def test_removal_frees_the_slot(gateway: RunningGateway, launcher: FakeLauncher) -> None:
    simulation_id = gateway.launch(through="/slot/7")
    gateway.delete(f"/slot/7/simulation/{simulation_id}")
    assert gateway.launch(through="/slot/7") > simulation_id
