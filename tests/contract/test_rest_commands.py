"""`GET` and `PUT /simulation/<id>/state`, reset and step."""

from __future__ import annotations

import threading

import pytest

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import CommandEvent, Refusal
from nrp_gateway import commands
from tests.fakes import FakeLauncher, FakeSimulation, accept_only, created, keep_silent, refuse
from tests.gateways import Installations, RunningGateway
from tests.waiting import wait_until

TRANSITION = "State Transition error"


def complete(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    gateway.ask_state(simulation.id, "started")
    simulation.report(SimulationEvent.COMPLETED)
    gateway.await_state(simulation.id, "completed")


def test_state_is_answered_alone(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    answer = gateway.get(f"/simulation/{simulation.id}/state")
    assert (answer.status_code, answer.get_json()) == (200, {"state": "paused"})


def test_start_pause_and_stop_are_answered_with_the_state_reached(
    gateway: RunningGateway, simulation: FakeSimulation
) -> None:
    for state in ("started", "paused", "started", "stopped"):
        answer = gateway.ask_state(simulation.id, state)
        assert (answer.status_code, answer.get_json()) == (200, {"state": state})
        assert gateway.state(simulation.id) == state


@pytest.mark.parametrize("state", ["created", "paused", "started", "completed"])
def test_stop_is_allowed_from_every_unfinished_state(
    gateway: RunningGateway, launcher: FakeLauncher, state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if state == "created":
        monkeypatch.setattr("nrp_gateway.launches.READY_WITHIN_S", 0.0)
        launcher.on_launch = created
    simulation = launcher.simulations[gateway.launch()]
    if state in ("started", "completed"):
        gateway.ask_state(simulation.id, "started")
    if state == "completed":
        simulation.report(SimulationEvent.COMPLETED)
    gateway.await_state(simulation.id, state)
    assert gateway.ask_state(simulation.id, "stopped").get_json() == {"state": "stopped"}


def test_stop_is_answered_when_the_launcher_has_said_its_last_word(
    gateway: RunningGateway, simulation: FakeSimulation
) -> None:
    def stop_slowly(stopped: FakeSimulation, _command: object, responder: object) -> None:
        responder.reply(stopped._reached())  # type: ignore[attr-defined]
        threading.Timer(0.3, lambda: stopped.end(SimulationState.STOPPED, logs="x.log.zip")).start()

    simulation.on_command = stop_slowly
    assert gateway.ask_state(simulation.id, "stopped").get_json() == {"state": "stopped"}
    assert gateway.get(f"/simulation/{simulation.id}").get_json()["logs"] == "x.log.zip"


def test_stop_that_fails_is_answered_with_failed(
    gateway: RunningGateway, simulation: FakeSimulation, monkeypatch: pytest.MonkeyPatch, always_in_time: None
) -> None:
    monkeypatch.setattr(commands, "ANSWERED_WITHIN_S", 0.1)

    def crash(stopped: FakeSimulation, _command: object, responder: object) -> None:
        stopped.end(SimulationState.FAILED, "the engine died")

    simulation.on_command = crash
    assert gateway.ask_state(simulation.id, "stopped").get_json() == {"state": "failed"}


@pytest.mark.parametrize("state", ["paused", "started"])
def test_asking_for_the_state_that_is_there_is_no_error(
    gateway: RunningGateway, simulation: FakeSimulation, state: str
) -> None:
    gateway.ask_state(simulation.id, "started")
    gateway.ask_state(simulation.id, state)
    answer = gateway.ask_state(simulation.id, state)
    assert (answer.status_code, answer.get_json()) == (200, {"state": state})


@pytest.mark.parametrize("state", ["initialized", "completed", "failed", "created", "running", "", "PAUSED", 7, [], {}])
def test_states_that_are_not_for_clients_are_400(
    gateway: RunningGateway, simulation: FakeSimulation, state: object
) -> None:
    answer = gateway.put(f"/simulation/{simulation.id}/state", {"state": state})
    assert answer.status_code == 400
    assert answer.get_json() == {"message": f"Invalid state requested: ({state})", "type": TRANSITION, "data": None}


@pytest.mark.parametrize("body", [{}, {"state": None}, {"other": 1}])
def test_missing_state_is_named(gateway: RunningGateway, simulation: FakeSimulation, body: object) -> None:
    answer = gateway.put(f"/simulation/{simulation.id}/state", body)
    assert answer.status_code == 400
    assert answer.get_json() == {"message": "state not given.", "type": "Client error", "data": None}


def test_transition_that_is_not_allowed_names_both_states(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    complete(gateway, simulation)
    for state in ("started", "paused"):
        answer = gateway.ask_state(simulation.id, state)
        assert answer.status_code == 400
        assert answer.get_json() == {
            "message": f"The state transition is invalid ('completed' -> '{state}')",
            "type": TRANSITION,
            "data": None,
        }


def test_start_of_a_simulation_that_is_not_ready_is_refused(
    gateway: RunningGateway, launcher: FakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrp_gateway.launches.READY_WITHIN_S", 0.0)
    launcher.on_launch = created
    answer = gateway.ask_state(gateway.launch(), "started")
    assert answer.status_code == 400
    assert answer.get_json()["message"] == "The state transition is invalid ('created' -> 'started')"


@pytest.mark.parametrize("end", [SimulationState.STOPPED, SimulationState.FAILED])
@pytest.mark.parametrize("call", ["state", "reset", "step"])
def test_final_simulation_takes_no_commands(
    gateway: RunningGateway, simulation: FakeSimulation, end: SimulationState, call: str
) -> None:
    simulation.end(end)
    gateway.await_state(simulation.id, end)
    method = "PUT" if call == "state" else "POST"
    answer = gateway.call(method, f"/simulation/{simulation.id}/{call}", {"state": "started"})
    assert answer.status_code == 400
    assert answer.get_json() == {
        "message": "The state transition is invalid (The simulation requested is finalized)",
        "type": TRANSITION,
        "data": None,
    }


def test_state_changes_of_the_server_are_mirrored(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    complete(gateway, simulation)
    simulation.end(SimulationState.FAILED, "out of memory")
    gateway.await_state(simulation.id, "failed")
    assert gateway.get(f"/simulation/{simulation.id}").get_json()["error"] == "out of memory"


# -- reset and step --------------------------------------------------------------------------------------------------


def test_reset_leads_to_paused(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    for prepare in (lambda: None, lambda: gateway.ask_state(simulation.id, "started")):
        prepare()
        answer = gateway.post(f"/simulation/{simulation.id}/reset")
        assert (answer.status_code, answer.get_json()) == (200, {"state": "paused"})


def test_reset_of_a_completed_simulation_leads_to_paused(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    complete(gateway, simulation)
    assert gateway.post(f"/simulation/{simulation.id}/reset").get_json() == {"state": "paused"}


@pytest.mark.parametrize(("body", "iterations"), [(None, 1), ({}, 1), ({"iterations": 7}, 7)])
def test_step_advances_and_is_paused_again(
    gateway: RunningGateway, simulation: FakeSimulation, body: object, iterations: int
) -> None:
    answer = gateway.post(f"/simulation/{simulation.id}/step", body)
    assert (answer.status_code, answer.get_json()) == (200, {"state": "paused"})
    assert (simulation.commands[-1].event, simulation.commands[-1].iterations) == (CommandEvent.STEP, iterations)


@pytest.mark.parametrize("iterations", [0, -1, 1.5, "7", True, 2**40, None])
def test_step_takes_a_positive_number(gateway: RunningGateway, simulation: FakeSimulation, iterations: object) -> None:
    answer = gateway.post(f"/simulation/{simulation.id}/step", {"iterations": iterations})
    assert (answer.status_code, answer.get_json()["type"]) == (400, "Client error")
    assert not simulation.commands


def test_step_of_a_started_simulation_is_refused(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    gateway.ask_state(simulation.id, "started")
    answer = gateway.post(f"/simulation/{simulation.id}/step")
    assert (answer.status_code, answer.get_json()["type"]) == (400, TRANSITION)


# -- servers that do not do what they are told -----------------------------------------------------------------------


def test_refusal_by_the_server_is_400_in_its_words(gateway: RunningGateway, simulation: FakeSimulation) -> None:
    words = "The state transition is invalid ('completed' -> 'started')"
    simulation.on_command = refuse(Refusal.INVALID, words)
    answer = gateway.ask_state(simulation.id, "started")
    assert answer.status_code == 400
    assert answer.get_json() == {"message": words, "type": TRANSITION, "data": None}


@pytest.mark.parametrize("misbehaviour", [keep_silent, accept_only])
def test_command_without_answer_is_504_that_names_it(
    gateway: RunningGateway,
    simulation: FakeSimulation,
    misbehaviour: object,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert commands.ANSWERED_WITHIN_S == 5
    monkeypatch.setitem(commands._TIMEOUTS, CommandEvent.STARTED, 0.2)
    simulation.on_command = misbehaviour  # type: ignore[assignment]
    answer = gateway.ask_state(simulation.id, "started")
    assert answer.status_code == 504
    assert answer.get_json()["type"] == "Server Error"
    assert f"'started' to simulation {simulation.id}" in answer.get_json()["message"]
    assert gateway.state(simulation.id) == "paused"


def test_stop_without_last_word_is_504_that_names_it(
    gateway: RunningGateway, simulation: FakeSimulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "ANSWERED_WITHIN_S", 0.2)
    monkeypatch.setattr(commands, "STOPPED_WITHIN_S", 0.3)
    simulation.on_command = keep_silent
    answer = gateway.ask_state(simulation.id, "stopped")
    assert answer.status_code == 504
    assert "'stopped'" in answer.get_json()["message"]


def test_stop_of_a_server_that_is_stuck_is_answered_when_the_launcher_killed_it(
    gateway: RunningGateway, simulation: FakeSimulation, monkeypatch: pytest.MonkeyPatch, always_in_time: None
) -> None:
    monkeypatch.setattr(commands, "ANSWERED_WITHIN_S", 0.1)
    simulation.on_command = lambda stuck, *_: threading.Timer(0.4, lambda: stuck.end(SimulationState.STOPPED)).start()
    assert gateway.ask_state(simulation.id, "stopped").get_json() == {"state": "stopped"}


def test_command_that_kills_the_simulation_is_answered_with_failed(
    gateway: RunningGateway, simulation: FakeSimulation
) -> None:
    def die(dying: FakeSimulation, command: object, responder: object) -> None:
        refuse(Refusal.FAILED, "the engine died")(dying, command, responder)  # type: ignore[arg-type]
        dying.end(SimulationState.FAILED, "the engine died")

    simulation.on_command = die
    answer = gateway.post(f"/simulation/{simulation.id}/reset")
    assert (answer.status_code, answer.get_json()) == (200, {"state": "failed"})


def test_command_to_nobody_is_503_that_says_who_is_missing(installation: Installations) -> None:
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch()]
    simulation.vanish()
    launcher.leave()
    wait_until(lambda: not gateway.gateway.presences.capacity)
    answer = gateway.ask_state(simulation.id, "started")
    assert (answer.status_code, answer.get_json()["type"]) == (503, "Server Error")
    assert "its launcher 'fake'" in answer.get_json()["message"]


def test_command_reaches_a_server_whose_launcher_is_away(installation: Installations) -> None:
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    simulation = launcher.simulations[gateway.launch()]
    launcher.bus.forget(launcher.topics.launcher_presence(launcher.name))
    wait_until(lambda: not gateway.gateway.presences.capacity)
    assert gateway.ask_state(simulation.id, "started").get_json() == {"state": "started"}
