"""The event loop: a graph in real time. Time passes here only when the loop rests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.embedded import NrpCore
from nrp_simserver.cores.embedded.event_loop.pace import Pace
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper, NRPSimulationTimeout
from nrp_simserver.server.gate import Gate
from tests.unit.cores.experiment import Experiment, seen
from tests.waiting import wait_until

MS = 1_000_000
TIMESTEP_MS = 10

COUNT = """
@Clock("clock")
@Iteration("i")
@FunctionalNode("count")
def count(clock, i):
    seen.append((i, clock))
"""


def in_real_time(experiment: Experiment, source: str = COUNT, **event_loop: float) -> Experiment:
    """The experiment with a graph that runs every 10 ms."""
    experiment.graph(source)
    del experiment.configuration["DataPackProcessor"]
    experiment.configuration |= {"SimulationLoop": "EventLoop", "EventLoop": {"Timestep": 0.01, **event_loop}}
    return experiment


class Time:
    """A clock that goes on when somebody rests, or when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 1_000_000 * MS
        self.rests_ms: list[float] = []

    def rest(self, seconds: float) -> None:
        self.rests_ms.append(round(seconds * 1e3, 6))
        self.now_ns += round(seconds * 1e9)

    def pass_ms(self, milliseconds: float) -> None:
        self.now_ns += round(milliseconds * MS)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def pace(time: Time) -> Pace:
    return Pace(TIMESTEP_MS * MS, 5 * MS, time.rest, lambda: time.now_ns)


def step(pace: Pace, time: Time, work_ms: float) -> None:
    pace.begin_step()
    time.pass_ms(work_ms)
    pace.end_step()


# -- the pace ----------------------------------------------------------------------------------------------------------


def test_a_step_takes_its_time_whatever_the_work_in_it(pace: Pace, time: Time) -> None:
    for work_ms in (0, 3, 9.5):
        step(pace, time, work_ms)
    assert time.rests_ms == [10, 7, 0.5]


def test_what_is_lost_between_and_in_steps_does_not_add_up(pace: Pace, time: Time) -> None:
    began_ns = time.now_ns
    for work_ms in (4, 12, 4, 4):
        time.pass_ms(1)  # of the main script's own
        step(pace, time, work_ms)
    assert time.now_ns - began_ns == (1 + 4 * TIMESTEP_MS) * MS


def test_steps_are_not_caught_up_with_after_a_pause(pace: Pace, time: Time) -> None:
    step(pace, time, 1)
    time.pass_ms(1000)
    step(pace, time, 1)
    step(pace, time, 1)
    assert time.rests_ms == [9, 9, 9]


def test_a_rest_that_was_cut_short_makes_no_step_longer(time: Time) -> None:
    pace = Pace(TIMESTEP_MS * MS, 5 * MS, time.rests_ms.append, lambda: time.now_ns)
    step(pace, time, 1)
    step(pace, time, 1)
    assert [round(rest * 1e3) for rest in time.rests_ms] == [9, 9]


def test_more_than_a_step_of_delay_is_not_caught_up_with(pace: Pace, time: Time) -> None:
    for work_ms in (35, 1, 1):
        step(pace, time, work_ms)
    assert time.rests_ms == [9, 9]


def test_falling_behind_is_told_once_a_second(pace: Pace, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(150):
        step(pace, time, 12)
    first, second = caplog.messages
    assert first == "the event loop is 6 ms behind real time: its steps of 10 ms take longer than that"
    assert second.startswith("the event loop is 174 ms behind")  # 84 steps of 12 ms later


@pytest.mark.parametrize("work_ms", [9, 14])
def test_a_delay_that_is_tolerated_is_not_told(
    work_ms: float, pace: Pace, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(10):
        step(pace, time, work_ms)
        step(pace, time, 1)
    assert caplog.messages == []


def test_a_pause_is_no_falling_behind(pace: Pace, time: Time, caplog: pytest.LogCaptureFixture) -> None:
    step(pace, time, 1)
    time.pass_ms(5000)
    step(pace, time, 1)
    assert caplog.messages == []


# -- the loop ----------------------------------------------------------------------------------------------------------


def test_without_engines_the_graph_runs_once_a_step(experiment: Experiment, time: Time) -> None:
    core = in_real_time(experiment).started(rest=time.rest)
    assert core.run_loop(2) == (False, [])
    core.run_loop()
    assert seen == [(0, 0), (1, 10), (2, 20)]
    assert core.time_ns == 30 * MS
    assert len(time.rests_ms) == 3
    assert all(0 < rest <= TIMESTEP_MS for rest in time.rests_ms)


@pytest.mark.parametrize(
    ("timestep", "steps", "looks"),
    [
        (0.01, 4, [0, 1, 2, 3]),
        (0.002, 20, [0, 5, 10, 15]),
        (0.03, 2, [0, 1]),
        (0.015, 3, [0, 1, 2]),  # due at 0, 15 and 30 ms; the graph sees at 20 what was ready at 15
    ],
)
def test_engines_keep_their_own_timesteps(
    timestep: float, steps: int, looks: list[int], experiment: Experiment, time: Time
) -> None:
    look = """
    @FromEngine("out", "/e/out")
    @FunctionalNode("look")
    def look(out):
        seen.append(out.data["steps"])
    """
    experiment.engine("e", timestep=timestep)
    in_real_time(experiment, look).started(rest=time.rest).run_loop(4)
    assert [told for told in seen if isinstance(told, int)] == looks
    assert len([told for told in seen if isinstance(told, tuple)]) == steps


def test_an_engine_that_is_due_between_two_cycles_gets_what_waits_for_it(experiment: Experiment, time: Time) -> None:
    send = """
    @Iteration("i")
    @ToEngine("x", "/e/inbox")
    @FunctionalNode("send", ["x"])
    def send(i):
        return {"i": i}
    """
    experiment.engine("e", timestep=0.015)
    in_real_time(experiment, send).started(rest=time.rest).run_loop(4)
    assert [inbox["i"] for _, _, inbox in seen] == [0, 1, 3]


def test_a_status_function_runs_once_a_cycle(experiment: Experiment, time: Time) -> None:
    status = """
    @SimulationTime("t")
    @StatusFunction()
    def status(t):
        seen.append(t)
        return t >= 20_000_000, []
    """
    core = in_real_time(experiment.engine("e", timestep=0.002), COUNT).status(status).started(rest=time.rest)
    done, timed_out, _ = core.run_until_timeout()
    assert (done, timed_out) == (True, False)
    assert [told for told in seen if isinstance(told, int)] == [0, 10 * MS, 20 * MS]


@pytest.mark.parametrize(
    ("timeouts", "steps"), [((0, 0.05), 5), ((0.03, 0), 3), ((0.03, 0.05), 3), ((0.05, 0.03), 3)], ids=str
)
def test_the_loop_ends_at_the_earlier_of_its_timeouts(
    timeouts: tuple[float, float], steps: int, experiment: Experiment, time: Time
) -> None:
    simulation_timeout, timeout = timeouts
    core = in_real_time(experiment, Timeout=timeout).started(rest=time.rest, SimulationTimeout=simulation_timeout)
    assert core.run_until_timeout() == (False, True, [])
    assert len(seen) == steps


def test_after_a_reset_the_loop_begins_at_0(experiment: Experiment, time: Time) -> None:
    core = in_real_time(experiment).started(rest=time.rest)
    core.run_loop(2)
    core.reset()
    core.run_loop()
    assert seen == [(0, 0), (1, 10), (0, 0)]


def test_a_node_that_raises_ends_the_loop(experiment: Experiment, time: Time) -> None:
    core = in_real_time(experiment, COUNT.replace("append((i, clock))", "append(1 / (i - 1))")).started(rest=time.rest)
    with pytest.raises(FunctionFailed, match=r"ZeroDivisionError in graph\.py \(Line 10\)"):
        core.run_loop(3)


# -- not waiting for time to pass --------------------------------------------------------------------------------------

LONG_S = 1000.0


def in_a_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def test_a_pause_takes_effect_within_a_step(experiment: Experiment) -> None:
    gate, clock = Gate(), SimulationClock()
    core = in_real_time(experiment, Timestep=LONG_S, Timeout=2 * LONG_S).started(rest=gate.hold)
    nrp = NRPCoreWrapper(core, gate, clock)
    gate.open()

    def script() -> None:
        with suppress(NRPSimulationTimeout):
            while True:
                nrp.run_loop()

    thread = in_a_thread(script)
    wait_until(lambda: len(seen) == 1)
    gate.close()
    wait_until(lambda: clock.time_ns == LONG_S * 1e9)
    assert len(seen) == 1
    gate.open()
    wait_until(lambda: len(seen) == 2)
    gate.close()
    wait_until(lambda: clock.time_ns == 2 * LONG_S * 1e9)
    gate.open()
    thread.join(10)
    assert not thread.is_alive()


def test_a_step_that_was_asked_for_takes_its_time(experiment: Experiment) -> None:
    gate = Gate()
    core = in_real_time(experiment, Timestep=LONG_S).started(rest=gate.hold)
    gate.open_for(1)
    thread = in_a_thread(core.run_loop)
    wait_until(lambda: seen)
    thread.join(0.05)
    assert thread.is_alive()
    gate.close()
    thread.join(10)
    assert not thread.is_alive()


def test_a_program_can_stop_a_loop_within_a_step(experiment: Experiment) -> None:
    in_real_time(experiment, Timestep=LONG_S).core()
    nrp = NrpCore(experiment_folder=experiment.folder)
    nrp.initialize()
    response: list[Any] = []
    thread = nrp.run_until_timeout(run_async=True, response=response)
    assert isinstance(thread, threading.Thread)
    wait_until(lambda: seen)
    nrp.stop()
    thread.join(10)
    assert response == [(False, False, [])]
    nrp.shutdown()
