"""How calls for many steps are split between gate and core."""

from __future__ import annotations

from typing import Any, cast

import pytest

from nrp_simserver.cores import NrpCore
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper, NRPSimulationTimeout
from nrp_simserver.server.gate import Gate

MILLISECOND = 1_000_000


class SlowCore:
    """A core whose calls are dear: it takes eight steps at once, and notes the calls."""

    timestep_ns = 10 * MILLISECOND
    steps_at_once = 8

    def __init__(self, timeout_ns: int = 0, done_at: int = 0) -> None:
        self.timeout_ns = timeout_ns
        self.calls: list[int | str] = []
        self._steps = 0
        self._done_at = done_at

    def run_loop(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        self.calls.append(num_iterations)
        before, self._steps = self._steps, self._steps + num_iterations
        done = before < self._done_at <= self._steps
        return done, [self._done_at] if done else []

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        self.calls.append("run_until_timeout")
        return False, True, ["the rest"]

    set_json_datapack = set_proto_datapack = current_state = None


def wrapped(core: SlowCore) -> tuple[NRPCoreWrapper, Gate, SimulationClock]:
    gate, clock = Gate(), SimulationClock()
    gate.open()
    return NRPCoreWrapper(cast(NrpCore, core), gate, clock), gate, clock


def test_many_steps_are_as_few_calls_as_the_core_allows() -> None:
    core = SlowCore()
    nrp, _, clock = wrapped(core)
    assert nrp.run_loop(20) == (False, [])
    assert core.calls == [8, 8, 4]
    assert clock.time_ns == 200 * MILLISECOND


def test_done_in_any_of_the_calls_is_done() -> None:
    nrp, _, _ = wrapped(SlowCore(done_at=3))
    assert nrp.run_loop(20) == (True, [3])


class GatheringCore(SlowCore):
    """One that is done in its second step, and hands out what it gathered after that."""

    steps_at_once = 1

    def __init__(self) -> None:
        super().__init__(done_at=2)

    def gathered(self) -> list[Any]:
        return [f"up to {self._steps}"]


def test_what_was_gathered_after_a_step_that_was_done_is_returned_with_the_rest() -> None:
    nrp, _, _ = wrapped(GatheringCore())
    assert nrp.run_loop(5) == (True, [2, "up to 5"])
    assert nrp.run_loop(5) == (False, [])


@pytest.mark.parametrize(
    ("iterations", "error"), [(2.5, TypeError), ("2", TypeError), (None, TypeError), (0, ValueError), (-1, ValueError)]
)
def test_a_number_of_steps_that_is_none_is_refused_and_nothing_advances(
    iterations: Any, error: type[Exception]
) -> None:
    core = SlowCore()
    nrp, _, clock = wrapped(core)
    with pytest.raises(error, match="number of iterations"):
        nrp.run_loop(iterations)
    assert (core.calls, clock.time_ns) == ([], 0)


def test_steps_that_are_counted_are_taken_one_by_one() -> None:
    core = SlowCore()
    nrp, gate, clock = wrapped(core)
    gate.open_for(3)
    nrp.run_loop(3)
    assert core.calls == [1, 1, 1]
    assert not gate.step_taken()
    assert clock.time_ns == 30 * MILLISECOND


def test_steps_that_would_pass_the_timeout_are_not_taken() -> None:
    core = SlowCore(timeout_ns=100 * MILLISECOND)
    nrp, _, clock = wrapped(core)
    with pytest.raises(NRPSimulationTimeout):
        nrp.run_loop(11)
    assert (core.calls, clock.time_ns) == ([], 0)


def test_the_last_step_until_the_timeout_is_the_cores_which_hands_out_the_trajectory() -> None:
    core = SlowCore(timeout_ns=105 * MILLISECOND)
    nrp, _, clock = wrapped(core)
    assert nrp.run_until_timeout() == (False, True, ["the rest"])
    assert core.calls == [8, 2, "run_until_timeout"]
    assert clock.time_ns == 110 * MILLISECOND
    assert nrp.run_until_timeout() == (False, True, ["the rest"])
    assert clock.time_ns == 110 * MILLISECOND


def test_run_until_timeout_ends_when_done() -> None:
    nrp, _, clock = wrapped(SlowCore(timeout_ns=1000 * MILLISECOND, done_at=10))
    assert nrp.run_until_timeout() == (True, False, [10])
    assert clock.time_ns == 160 * MILLISECOND
