"""A simulation server obeys: initialise, start, pause, step, reset, stop, and the end of the script."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import uuid

import pytest

from nrp_common.errors import CommandTimeout
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import LifecycleMessage, Refusal
from tests.simulation_servers import ENGINE, RunningSimulation, Seen, SimulationServers
from tests.waiting import wait_until

TO_THE_TIMEOUT = """
print("the script begins")
while True:
    nrp.run_loop()
"""


WHEN_TOLD = """
import os, time
while not os.path.exists("go on"):
    time.sleep(0.01)
"""


WITH_WORKERS = """
import multiprocessing, os, sys

def square(x):
    print("at work")
    return x * x

for x in range(50):
    nrp.run_loop()
    worker = os.fork()
    if worker == 0:
        square(x)
        sys.exit()
    assert os.waitpid(worker, 0) == (worker, 0)
with multiprocessing.get_context("fork").Pool(2) as pool:
    assert pool.map(square, [1, 2, 3]) == [1, 4, 9]
"""


def tell_to_go_on(simulation: RunningSimulation) -> None:
    (simulation.folder.experiment / "go on").touch()


def simulation_time(simulation: RunningSimulation) -> float:
    return float(simulation.statuses[-1]["simulationTime"]) if simulation.statuses else 0.0


def catch_up(simulation: RunningSimulation) -> None:
    """Wait until all has arrived that was under way: answers to commands come over another connection."""
    topic = f"test/{uuid.uuid4().hex}"
    simulation.wire.publish(topic, b"")
    wait_until(lambda: simulation.wire.on(topic))


def assert_stands_still(simulation: RunningSimulation) -> None:
    """Three further status messages show the same time."""
    catch_up(simulation)
    count = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) >= count + 2)
    before, count = simulation_time(simulation), len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) >= count + 3)
    assert simulation_time(simulation) == before


def test_initialised_it_is_paused_and_its_script_has_not_begun(servers: SimulationServers) -> None:
    simulation = servers.paused("print('the script begins')\nnrp.run_loop()")
    assert_stands_still(simulation)
    simulation.assert_transitions(["initialized"])
    assert "the script begins" not in simulation.log
    assert simulation_time(simulation) == 0


def test_started_it_runs_its_script_to_the_end(servers: SimulationServers) -> None:
    simulation = servers.paused("for _ in range(5): nrp.run_loop()\nprint('the script ends')")
    reply = simulation.command("started")
    simulation.await_transition("completed")
    assert reply.state == "started"
    assert reply.incarnation == simulation.setup.incarnation
    simulation.assert_transitions(["initialized", "started", "completed"])
    assert "the script ends" in simulation.log
    wait_until(lambda: [each["state"] for each in simulation.statuses[-1:]] == ["completed"])
    assert simulation_time(simulation) == pytest.approx(0.05)


def test_an_uncaught_timeout_completes(servers: SimulationServers) -> None:
    simulation = servers.started(TO_THE_TIMEOUT, configuration={"SimulationTimeout": 0.505})
    simulation.await_transition("completed")
    wait_until(lambda: [each["state"] for each in simulation.statuses[-1:]] == ["completed"])
    assert simulation_time(simulation) == pytest.approx(0.5)
    assert simulation.statuses[-1]["simulationTimeLeft"] == pytest.approx(0.005)
    assert simulation.errors == []


def test_paused_its_times_stand_still_until_it_is_started_again(servers: SimulationServers) -> None:
    simulation = servers.started()
    wait_until(lambda: simulation_time(simulation) > 0)
    assert simulation.command("paused").state == "paused"
    assert_stands_still(simulation)
    paused_at, real_time = simulation_time(simulation), simulation.statuses[-1]["realTime"]
    assert simulation.command("started").state == "started"
    wait_until(lambda: simulation_time(simulation) > paused_at)
    simulation.assert_transitions(["initialized", "started", "paused", "started"])
    assert real_time <= simulation.statuses[-1]["realTime"] < real_time + 5


def test_command_that_was_answered_before_another_one_is_not_carried_out_after_it(servers: SimulationServers) -> None:
    simulation = servers.paused()
    answered_at = time.time()
    simulation.command("started")
    with pytest.raises(CommandTimeout):  # it is not answered a second time
        simulation.command("paused", timeout=0.5, unless_changed_since=answered_at)
    assert simulation.command("started").state == "started"
    assert simulation.command("paused", unless_changed_since=time.time()).state == "paused"
    simulation.assert_transitions(["initialized", "started", "paused"])


def test_pause_takes_effect_within_a_call_for_many_steps(servers: SimulationServers) -> None:
    simulation = servers.started("nrp.run_loop(10**9)")
    wait_until(lambda: simulation_time(simulation) > 0)
    assert simulation.command("paused").state == "paused"
    assert_stands_still(simulation)


def test_pause_takes_effect_within_run_until_timeout(servers: SimulationServers) -> None:
    simulation = servers.started("nrp.run_until_timeout()", configuration={"SimulationTimeout": 1e7})
    wait_until(lambda: simulation_time(simulation) > 0)
    assert simulation.command("paused").state == "paused"
    assert_stands_still(simulation)


def test_workers_that_a_script_forks_work_and_end_whatever_is_logged_meanwhile(servers: SimulationServers) -> None:
    simulation = servers.started(WITH_WORKERS)
    deadline = time.monotonic() + 30
    while simulation.command("paused").state == "paused":
        assert time.monotonic() < deadline, simulation.log
        simulation.command("started")
    simulation.await_transition("completed")
    assert simulation.log.count("at work") == 53


def test_a_script_that_ends_while_paused_completes_when_started_again(servers: SimulationServers) -> None:
    simulation = servers.started(f"nrp.run_loop()\nprint('last step')\n{WHEN_TOLD}print('script over')")
    wait_until(lambda: "last step" in simulation.log)
    assert simulation.command("paused").state == "paused"
    tell_to_go_on(simulation)
    wait_until(lambda: "script over" in simulation.log)
    assert_stands_still(simulation)
    simulation.assert_transitions(["initialized", "started", "paused"])
    simulation.command("started")
    simulation.await_transition("completed")


def test_step_advances_by_so_many_timesteps_and_is_answered_when_paused_again(servers: SimulationServers) -> None:
    simulation = servers.paused(TO_THE_TIMEOUT)
    assert simulation.command("step", iterations=3).state == "paused"
    wait_until(lambda: simulation_time(simulation) == pytest.approx(0.03))
    assert_stands_still(simulation)
    assert simulation.command("step").state == "paused"
    simulation.assert_transitions(["initialized", "started", "paused", "started", "paused"])
    wait_until(lambda: simulation_time(simulation) == pytest.approx(0.04))


def test_who_is_answered_finds_the_times_as_the_command_left_them(servers: SimulationServers) -> None:
    simulation = servers.paused(TO_THE_TIMEOUT, status_interval_s=600.0)
    known: set[str] = set()  # the requests that were answered already, which may be once more

    def is_answer(seen: Seen) -> bool:
        return (
            seen.topic.endswith("/reply")
            and seen.json.get("state") is not None
            and seen.json["correlation"] not in known
        )

    for command, seconds in (("step", 0.01), ("step", 0.02), ("reset", 0.0)):
        assert simulation.command(command).state == "paused"
        wait_until(lambda: any(map(is_answer, simulation.wire.seen)))
        before = list(itertools.takewhile(lambda seen: not is_answer(seen), simulation.wire.seen))
        statuses = [seen.json for seen in before if seen.topic == simulation.topics.status(simulation.id)]
        assert statuses[-1]["simulationTime"] == pytest.approx(seconds)
        known.update(seen.json["correlation"] for seen in filter(is_answer, list(simulation.wire.seen)))


def test_step_takes_effect_within_a_call_for_many_steps(servers: SimulationServers) -> None:
    simulation = servers.paused("nrp.run_loop(1000)")
    assert simulation.command("step", iterations=7).state == "paused"
    wait_until(lambda: simulation_time(simulation) == pytest.approx(0.07))


def test_step_is_answered_completed_when_the_script_ends_before(servers: SimulationServers) -> None:
    simulation = servers.paused("nrp.run_loop(2)")
    assert simulation.command("step", iterations=5).state == "completed"
    simulation.assert_transitions(["initialized", "started", "completed"])


def test_started_during_a_step_lets_it_run_on(servers: SimulationServers) -> None:
    simulation = servers.paused(f"nrp.run_loop()\nprint('first', flush=True)\n{WHEN_TOLD}while True: nrp.run_loop()")
    simulation.command("paused")  # which makes the connection that both threads ask over
    answers = []
    step = threading.Thread(target=lambda: answers.append(simulation.command("step", iterations=3)))
    step.start()
    wait_until(lambda: "first" in simulation.log)
    assert simulation.command("started").state == "started"
    tell_to_go_on(simulation)
    step.join()
    assert answers[0].state == "started"
    wait_until(lambda: simulation_time(simulation) > 0.05)


@pytest.mark.parametrize("when", ["paused", "started", "completed"])
def test_reset_is_back_at_zero_and_paused(servers: SimulationServers, when: str) -> None:
    simulation = servers.started("nrp.run_loop(3)" if when == "completed" else TO_THE_TIMEOUT)
    if when == "completed":
        simulation.await_transition("completed")
    else:
        wait_until(lambda: simulation_time(simulation) > 0)
    if when == "paused":
        simulation.command("paused")
    reply = simulation.command("reset")
    assert reply.state == "paused"
    assert_stands_still(simulation)
    assert simulation_time(simulation) == 0
    assert simulation.statuses[-1]["realTime"] == 0
    assert simulation.lifecycle[-1]["event"] == "reset"
    assert simulation.lifecycle[-1]["source_state"] == when
    assert simulation.lifecycle[-1]["target_state"] == "paused"
    assert reply.seq == simulation.lifecycle[-1]["seq"]


def test_after_a_reset_the_script_begins_again_with_fresh_globals(servers: SimulationServers) -> None:
    simulation = servers.started("print('seen' in globals(), flush=True)\nseen = True\nwhile True: nrp.run_loop()")
    wait_until(lambda: simulation_time(simulation) > 0)
    simulation.command("reset")
    simulation.command("started")
    wait_until(lambda: simulation.log.count("False") + simulation.log.count("True") == 2)
    assert "True" not in simulation.log


def test_reset_ends_a_script_that_sleeps(servers: SimulationServers) -> None:
    simulation = servers.started("import time\nprint('asleep', flush=True)\ntime.sleep(60)")
    wait_until(lambda: "asleep" in simulation.log)
    assert simulation.command("reset").state == "paused"


def test_reset_does_not_interrupt_a_step(servers: SimulationServers) -> None:
    slow = ENGINE.replace("def runLoop(self, timestep_ns):", "def runLoop(self, timestep_ns):\n        slow_step()")
    slow += "\ndef slow_step():\n    import time\n    print('in', flush=True)\n    time.sleep(1.2)\n    print('out')"
    simulation = servers.started(TO_THE_TIMEOUT, engine=slow)
    wait_until(lambda: "in" in simulation.log)
    assert simulation.command("reset").state == "paused"
    assert simulation.log.count("in\n") == simulation.log.count("out\n")


def test_a_reset_that_fails_fails_the_simulation(servers: SimulationServers) -> None:
    broken = ENGINE.replace("def reset(self):", "def reset(self):\n        raise ValueError('no way back')")
    simulation = servers.started(TO_THE_TIMEOUT, engine=broken)
    reply = simulation.command("reset")
    assert reply.state is None
    assert reply.error == "The simulation failed: ValueError in engine.py (Line 13): no way back"
    simulation.await_failure()


@pytest.mark.parametrize("words", ["'x' * 3_000_000", "'\\udcff'"])
def test_whatever_an_error_says_it_is_told(words: str, servers: SimulationServers) -> None:
    simulation = servers.started(f"raise ValueError({words})")
    simulation.await_failure()
    wait_until(lambda: simulation.errors)
    (error,) = simulation.errors
    assert error["msg"].startswith("ValueError in main script (Line 1): ")
    assert len(error["msg"]) < 5_000


@pytest.mark.parametrize("when", ["paused", "started", "completed"])
def test_stopped_it_shuts_down_and_leaves_the_final_word_to_its_launcher(servers: SimulationServers, when: str) -> None:
    simulation = servers.paused("nrp.run_loop()" if when == "completed" else TO_THE_TIMEOUT)
    if when != "paused":
        simulation.command("started")
    simulation.await_transition("initialized" if when == "paused" else when)
    reply = simulation.command("stopped")
    assert reply.state == when
    simulation.await_end()
    journal = simulation.journal
    assert (journal.state, journal.stopping, journal.error) == (when, True, None)
    assert journal.seq == simulation.lifecycle[-1]["seq"]
    assert simulation.lifecycle[-1]["target_state"] == when
    assert "the engine is shut down" in simulation.log


def test_an_engine_that_fails_in_shutting_down_is_reported_and_stopped_all_the_same(servers: SimulationServers) -> None:
    broken = ENGINE.replace('print("the engine is shut down")', 'raise ValueError("not like this")')
    simulation = servers.paused(engine=broken)
    simulation.command("stopped")
    simulation.await_end()
    assert simulation.journal.stopping
    wait_until(lambda: simulation.errors)
    (error,) = simulation.errors
    assert error["msg"] == "ValueError in engine.py (Line 16): not like this"
    assert (error["fileName"], error["line_number"]) == ("engine.py", 16)
    assert error["line_text"] == 'raise ValueError("not like this")'
    assert 'raise ValueError("not like this")' in simulation.log


@pytest.mark.alone
def test_stop_wakes_a_script_waiting_in_pause(servers: SimulationServers) -> None:
    simulation = servers.started()
    wait_until(lambda: simulation_time(simulation) > 0)
    simulation.command("paused")
    simulation.command("stopped")
    simulation.await_end(timeout=3)
    assert simulation.journal.stopping


@pytest.mark.alone
def test_stop_interrupts_an_engine_that_is_being_initialised(servers: SimulationServers) -> None:
    slow = "import time\nprint('waiting', flush=True)\ntime.sleep(60)\n" + ENGINE
    simulation = servers.launch(engine=slow)
    wait_until(lambda: simulation.folder.log.exists() and "waiting" in simulation.log)
    assert simulation.command("stopped").state == "created"
    simulation.await_end(timeout=3)
    assert simulation.journal.stopping
    assert simulation.transitions == []


@pytest.mark.parametrize(
    ("state", "command", "message"),
    [
        ("completed", "started", "The state transition is invalid ('completed' -> 'started')"),
        ("completed", "paused", "The state transition is invalid ('completed' -> 'paused')"),
        ("started", "step", "The state transition is invalid ('started' -> 'step')"),
    ],
)
def test_a_command_that_the_state_does_not_allow_is_refused(
    servers: SimulationServers, state: str, command: str, message: str
) -> None:
    simulation = servers.started("nrp.run_loop()" if state == "completed" else TO_THE_TIMEOUT)
    simulation.await_transition(state)
    before = simulation.transitions
    reply = simulation.command(command)
    assert (reply.state, reply.error, reply.refusal) == (None, message, Refusal.INVALID)
    assert simulation.transitions == before


def test_nothing_but_a_stop_is_obeyed_before_it_is_initialised(servers: SimulationServers) -> None:
    simulation = servers.launch(engine="import time\nprint('waiting', flush=True)\ntime.sleep(60)\n" + ENGINE)
    wait_until(lambda: simulation.folder.log.exists() and "waiting" in simulation.log)
    for command in ("started", "paused", "reset", "step"):
        assert simulation.command(command).refusal is Refusal.INVALID


def test_a_repeated_command_changes_nothing(servers: SimulationServers) -> None:
    simulation = servers.started(TO_THE_TIMEOUT)
    simulation.await_transition("started")
    first = simulation.journal.seq
    assert simulation.command("started").seq == first
    simulation.command("paused")
    assert simulation.command("paused").seq == first + 1
    simulation.assert_transitions(["initialized", "started", "paused"])


def test_it_can_be_run_from_a_file_and_ended_by_a_signal(servers: SimulationServers) -> None:
    simulation = servers.prepare()
    process = subprocess.Popen(
        [sys.executable, "-m", "nrp_simserver.server.simulation_server", str(simulation.setup.folder / "setup.json")]
    )
    try:
        simulation.await_transition("initialized")
        process.terminate()
        assert process.wait(10) == 0
    finally:
        process.kill()
    assert simulation.journal.stopping


def test_its_status_is_1_when_it_failed(servers: SimulationServers) -> None:
    simulation = servers.prepare("this is no Python")
    command = [
        sys.executable,
        "-m",
        "nrp_simserver.server.simulation_server",
        str(simulation.setup.folder / "setup.json"),
    ]
    assert subprocess.run(command, timeout=30, check=False).returncode == 1


def test_what_somebody_else_declared_is_handed_on_to_its_launcher(servers: SimulationServers) -> None:
    simulation = servers.started()
    declared = LifecycleMessage(
        source_node="nrp_gateway",
        source_state=SimulationState.CREATED,
        event=SimulationEvent.FAILED,
        target_state=SimulationState.FAILED,
        seq=1,
        reason="nobody answered",
    )
    simulation.wire.publish(simulation.topics.lifecycle(simulation.id), declared.to_json(), retain=True)
    simulation.await_end()
    assert simulation.journal.verdict == declared
