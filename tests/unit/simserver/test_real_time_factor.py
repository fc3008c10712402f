"""What a limit to the real-time factor promises: simulated time does not run ahead of real time, and nothing hangs."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from nrp_simserver.cores import NrpCore
from nrp_simserver.server.clock import NANOSECONDS, SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper
from nrp_simserver.server.gate import Gate, SimulationEnding, SimulationReset, SimulationStopped
from tests.waiting import wait_until

FOR_EVER = 1e-9
"""A real-time factor with which a step lasts four months."""


class Time(Gate):
    """Real time that passes as a test wants it, and where steps are held."""

    __slots__ = ("held", "now")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.held: list[float] = []

    def now_ns(self) -> int:
        return round(self.now * NANOSECONDS)

    def hold(self, seconds: float) -> bool:
        self.held.append(seconds)
        self.now += seconds
        return True


class Core:
    """A core with steps of 10 ms; each takes `costs_s` of real time."""

    timestep_ns = 10_000_000
    timeout_ns = 1_000_000_000
    steps_at_once = 8

    def __init__(self, time: Time) -> None:
        self._time = time
        self.costs_s = 0.0
        self.calls: list[int | str] = []

    def run_loop(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        self.calls.append(num_iterations)
        self._time.now += num_iterations * self.costs_s
        return False, []

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        self.calls.append("run_until_timeout")
        return False, True, []

    def reset(self) -> list[Any]:
        return []

    set_json_datapack = set_proto_datapack = current_state = None


class Simulation:
    """A started simulation, with its real time in a test's hands."""

    def __init__(self, real_time_factor: float) -> None:
        self.time = Time()
        self.time.open()
        self.core = Core(self.time)
        self.clock = SimulationClock(self.time.now_ns)
        self.clock.start()
        core = cast(NrpCore, self.core)
        self.nrp = NRPCoreWrapper(core, self.time, self.clock, real_time_factor=real_time_factor)


def test_simulated_time_passes_as_fast_as_the_factor_says() -> None:
    simulation = Simulation(2)
    for _ in range(40):
        simulation.nrp.run_loop()
    assert simulation.time.now == pytest.approx(0.2)
    simulation.nrp.run_loop(40)
    assert simulation.time.now == pytest.approx(0.4)
    simulation.nrp.run_until_timeout()
    assert simulation.time.now == pytest.approx(0.5)


def test_steps_are_held_one_by_one() -> None:
    simulation = Simulation(1)
    simulation.nrp.run_loop(3)
    assert simulation.core.calls == [1, 1, 1]
    assert simulation.time.held == pytest.approx([0.01] * 3)


def test_the_time_that_a_step_takes_counts() -> None:
    simulation = Simulation(1)
    simulation.core.costs_s = 0.007
    simulation.nrp.run_loop(10)
    assert simulation.time.held == pytest.approx([0.003] * 10)


def test_a_slow_step_is_made_up_for_by_the_next_ones() -> None:
    simulation = Simulation(1)
    simulation.core.costs_s = 0.2
    simulation.nrp.run_loop()
    simulation.core.costs_s = 0.0
    simulation.nrp.run_loop(30)
    assert simulation.time.now == pytest.approx(0.31)
    assert len(simulation.time.held) == 11


def test_a_simulation_too_slow_for_its_factor_is_never_held() -> None:
    simulation = Simulation(1)
    simulation.core.costs_s = 0.1
    simulation.nrp.run_loop(100)
    assert not simulation.time.held


def test_what_a_script_sleeps_is_not_made_up_for() -> None:
    simulation = Simulation(1)
    simulation.nrp.run_loop(10)
    simulation.time.now += 60
    simulation.nrp.run_loop()
    del simulation.time.held[:]
    simulation.nrp.run_loop(10)
    assert simulation.time.held == pytest.approx([0.01] * 10)


def test_a_pause_is_not_made_up_for() -> None:
    simulation = Simulation(1)
    simulation.nrp.run_loop(10)
    simulation.clock.pause()
    simulation.time.now += 0.3
    simulation.clock.start()
    del simulation.time.held[:]
    simulation.nrp.run_loop(10)
    assert simulation.time.held == pytest.approx([0.01] * 10)


def test_a_reset_is_not_held_and_begins_anew() -> None:
    simulation = Simulation(1)
    simulation.nrp.run_loop(30)
    del simulation.time.held[:]
    simulation.nrp.reset()
    assert not simulation.time.held
    simulation.nrp.run_loop(10)
    assert simulation.time.held == pytest.approx([0.01] * 10)


def test_without_a_limit_nothing_is_held() -> None:
    simulation = Simulation(0)
    simulation.nrp.run_loop()
    simulation.nrp.run_loop(10)
    simulation.nrp.run_until_timeout()
    assert not simulation.time.held
    assert simulation.core.calls == [1, 8, 2, 8, *[8] * 9, 8, "run_until_timeout"]


# -- with a gate that waits in earnest -------------------------------------------------------------------------------


class Held:
    """A simulation whose script takes one step in a thread and is then held, for months."""

    def __init__(self) -> None:
        self.gate = Gate()
        self.gate.open()
        self.clock = SimulationClock()
        self.clock.start()
        core = cast(NrpCore, Core(Time()))
        self._nrp = NRPCoreWrapper(core, self.gate, self.clock, real_time_factor=FOR_EVER)
        self.ended_by: SimulationEnding | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        wait_until(lambda: self.clock.time_ns)

    def _run(self) -> None:
        try:
            self._nrp.run_loop()
        except SimulationEnding as error:
            self.ended_by = error


def test_a_held_step_stays_held() -> None:
    held = Held()
    held.thread.join(0.05)
    assert held.thread.is_alive()
    held.gate.close()


def test_a_pause_ends_the_hold() -> None:
    held = Held()
    held.gate.close()
    held.thread.join(10)
    assert not held.thread.is_alive()
    assert held.ended_by is None


@pytest.mark.parametrize("ending", [SimulationStopped, SimulationReset])
def test_a_stop_and_a_reset_end_the_hold_and_the_script(ending: type[SimulationStopped | SimulationReset]) -> None:
    held = Held()
    held.gate.end(ending)
    held.thread.join(10)
    assert isinstance(held.ended_by, ending)


def test_the_last_step_of_a_step_command_is_not_held() -> None:
    taken = []
    gate, clock = Gate(), SimulationClock()
    gate.open_for(1)
    clock.start()
    core = cast(NrpCore, Core(Time()))
    nrp = NRPCoreWrapper(core, gate, clock, lambda: taken.append(True), real_time_factor=FOR_EVER)
    nrp.run_loop()
    assert taken
