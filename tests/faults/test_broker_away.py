"""Runs go on while the broker is away for ten seconds, and everything is right once it is back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from nrp_common.messages import Reply
from nrp_gateway.settings import GatewaySettings
from nrp_simserver import processes
from tests.faults.test_launcher_killed import FAILING_WHEN_TOLD
from tests.gateways import RunningGateway
from tests.launchers import SECRET, Launched, Launchers, RunningLauncher
from tests.mosquitto import CONFIGURATION, REMEMBERING, Mosquitto
from tests.simulation_servers import Wire
from tests.storage_server import StorageServer
from tests.waiting import wait_until

AWAY_S = 10

STEPS_MEANWHILE = 1000

TOKEN = StorageServer.TOKEN

COUNTING = """
import os, time
for n in range(10**9):
    nrp.run_loop()
    time.sleep(0.001)
    with open("steps.new", "w") as file:
        file.write(str(n))
    os.replace("steps.new", "steps.txt")
"""

COMPLETING_IN_A_WHILE = "import time\nfor _ in range(30):\n    nrp.run_loop()\n    time.sleep(0.1)"


@dataclass
class Outage:
    """What there was before a broker went away and came back, with what was retained or without it."""

    mosquitto: Mosquitto
    launcher: RunningLauncher
    gateway: RunningGateway
    counting: Launched
    completing: Launched
    dying: Launched
    steps_when_it_went: int = 0
    steps_when_it_came: int = 0
    answer_meanwhile: int = 0
    came_at: float = 0.0

    def launched(self, script: str) -> Launched:
        """A simulation that was launched through the gateway and is started."""
        return started(self.launcher, self.gateway, script)


def started(launcher: RunningLauncher, gateway: RunningGateway, script: str) -> Launched:
    experiment = launcher.experiment(script)
    simulation = Launched(gateway.launch(experiment, token=TOKEN), experiment, launcher)
    simulation.await_transition("initialized")
    simulation.reply = Reply(incarnation=simulation.lifecycle[0]["incarnation"])
    assert gateway.ask_state(simulation.id, "started", token=TOKEN).status_code == 200
    return simulation


def steps(simulation: Launched) -> int:
    """How many steps its script has counted."""
    counter = simulation.folder / "experiment" / "steps.txt"
    wait_until(counter.exists)
    return int(counter.read_text())


@pytest.fixture(scope="module", params=[CONFIGURATION, REMEMBERING], ids=["forgetting", "remembering"])
def outage(
    storage: StorageServer, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Outage]:
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"), request.param)
    mosquitto.start()
    launcher = RunningLauncher(mosquitto.address, storage, tmp_path_factory.mktemp("launcher"))
    launcher.start()
    gateway = RunningGateway(
        GatewaySettings(
            mqtt_broker_address=str(mosquitto.address),
            mqtt_prefix=launcher.topics.prefix,
            data_directory=tmp_path_factory.mktemp("gateway"),
            authentication="storage",  # type: ignore[arg-type]  # as it comes from the environment
            storage_url=storage.url,
            secret_key=SECRET,  # type: ignore[arg-type]
        )
    )
    launcher.await_ready()
    gateway.await_launcher()
    scripts = (COUNTING, COMPLETING_IN_A_WHILE, COUNTING)
    outage = Outage(mosquitto, launcher, gateway, *(started(launcher, gateway, script) for script in scripts))
    suffer(outage)
    yield outage
    gateway.close()
    launcher.close()
    mosquitto.stop()


def suffer(outage: Outage) -> None:
    outage.steps_when_it_went = steps(outage.counting)
    outage.mosquitto.stop()
    went_at = time.monotonic()
    os.kill(outage.dying.server, signal.SIGKILL)
    outage.answer_meanwhile = outage.gateway.ask_state(outage.counting.id, "paused", token=TOKEN).status_code
    wait_until(lambda: time.monotonic() - went_at > AWAY_S, AWAY_S + 5)
    with suppress(AssertionError):  # a busy machine takes its time
        wait_until(lambda: steps(outage.counting) > outage.steps_when_it_went + STEPS_MEANWHILE)
    outage.steps_when_it_came = steps(outage.counting)
    outage.mosquitto.start()
    outage.came_at = time.monotonic()
    wait_until(lambda: outage.gateway.gateway.bus.is_connected)


def test_run_goes_on_meanwhile(outage: Outage) -> None:
    assert outage.steps_when_it_came > outage.steps_when_it_went + STEPS_MEANWHILE


def test_command_meanwhile_is_refused_as_unreachable(outage: Outage) -> None:
    assert outage.answer_meanwhile == 503


@pytest.mark.alone
def test_states_are_right_afterwards(outage: Outage) -> None:
    for simulation, state in (
        (outage.counting, "started"),
        (outage.completing, "completed"),
        (outage.dying, "failed"),
    ):
        outage.gateway.await_state(simulation.id, state, token=TOKEN)
    assert time.monotonic() - outage.came_at < 5


def test_who_comes_later_finds_the_states_retained(outage: Outage) -> None:
    late = Wire(outage.mosquitto.address)
    try:
        for simulation, state in (
            (outage.counting, "started"),
            (outage.completing, "completed"),
            (outage.dying, "failed"),
        ):
            # A status that was retained before the broker went is followed by the next one.
            wait_until(lambda simulation=simulation, state=state: told(late, simulation) == [state] * 2)  # type: ignore[misc]
    finally:
        late.close()


def told(wire: Wire, simulation: Launched) -> list[str]:
    """The states that its last lifecycle message and its last status tell, as far as there are any."""
    lifecycle = [seen.json["target_state"] for seen in wire.on(simulation.topics.lifecycle(simulation.id))]
    statuses = [seen.json.get("state") for seen in wire.on(simulation.topics.status(simulation.id))]
    return [*lifecycle[-1:], *[each for each in statuses if each][-1:]]


def test_error_of_a_script_that_failed_meanwhile_is_told_with_its_place(
    launchers: Launchers, mosquitto: Mosquitto
) -> None:
    launcher = launchers.running(broker=mosquitto.address)
    simulation = launcher.started(FAILING_WHEN_TOLD)
    server = simulation.server
    mosquitto.stop()
    (simulation.folder / "experiment" / "fail").touch()
    wait_until(lambda: processes.has_ended(server))
    launcher.process.send_signal(signal.SIGSTOP)  # until somebody listens
    mosquitto.start()
    frontend = Wire(mosquitto.address)
    launcher.process.send_signal(signal.SIGCONT)
    topics = simulation.topics
    try:
        wait_until(lambda: frontend.on(topics.lifecycle(simulation.id)))
        [error] = [seen.json for seen in frontend.on(topics.runtime_error(simulation.id))]
        assert error["msg"] == "RuntimeError in main script (Line 6): on purpose"
        assert (error["fileName"], error["line_text"]) == ("main_script.py", 'raise RuntimeError("on purpose")')
    finally:
        frontend.close()


def test_simulation_that_died_meanwhile_has_its_logs_stored(outage: Outage) -> None:
    final = outage.dying.await_final()
    assert "SIGKILL" in final["reason"]
    assert outage.dying.log_in(final["logs"]) is not None
    outage.dying.assert_nothing_is_left()


def test_new_launch_is_taken_afterwards(outage: Outage) -> None:
    outage.gateway.await_launcher()
    simulation = outage.launched("")
    simulation.await_transition("completed")
    assert outage.gateway.ask_state(simulation.id, "stopped", token=TOKEN).get_json() == {"state": "stopped"}


def test_pause_and_stop_afterwards_are_answered(outage: Outage) -> None:
    outage.counting.await_steps()  # its server may be the last that is back
    for state in ("paused", "stopped"):
        answer = outage.gateway.ask_state(outage.counting.id, state, token=TOKEN)
        assert (answer.status_code, answer.get_json()) == (200, {"state": state})
    outage.counting.assert_nothing_is_left()
