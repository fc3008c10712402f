"""A simulation that somebody else declared final ends, its logs are stored, and the first verdict stands."""

from __future__ import annotations

import pytest

from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import LifecycleMessage
from tests.launchers import Launched, RunningLauncher
from tests.waiting import wait_until

REASON = "nobody was there to ask"


def declare_failed(simulation: Launched, *, incarnation: str) -> None:
    verdict = LifecycleMessage(
        source_node="nrp_gateway",
        source_state=SimulationState.STARTED,
        event=SimulationEvent.FAILED,
        target_state=SimulationState.FAILED,
        incarnation=incarnation,
        seq=100,
        reason=REASON,
    )
    simulation.launcher.wire.publish(simulation.topics.lifecycle(simulation.id), verdict.to_json(), retain=True)


@pytest.mark.parametrize("script", ["while True: nrp.run_loop()", "import time\nwhile True: time.sleep(60)"])
def test_run_that_was_declared_failed_ends_and_its_logs_are_stored(launcher: RunningLauncher, script: str) -> None:
    simulation = launcher.started(f"print('the script says this')\n{script}")
    wait_until(lambda: "the script says this" in simulation.own_log)
    declare_failed(simulation, incarnation=simulation.incarnation)
    wait_until(lambda: simulation.archives)
    assert "the script says this" in simulation.log_in(simulation.archives[-1]["logs"])
    simulation.assert_nothing_is_left()
    assert [each["reason"] for each in simulation.finals] == [REASON]


def test_verdict_on_an_earlier_server_of_the_simulation_changes_nothing(launcher: RunningLauncher) -> None:
    simulation = launcher.started()
    declare_failed(simulation, incarnation="0" * 32)
    simulation.await_steps()
    assert simulation.command("paused").error is None
    simulation.command("stopped")
    wait_until(lambda: simulation.finals[-1]["event"] == "stopped")
    assert simulation.finals[-1]["incarnation"] == simulation.incarnation
