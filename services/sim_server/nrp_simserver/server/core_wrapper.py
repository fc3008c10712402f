"""What a main script knows as `nrp`: a co-simulation core behind a gate, with its time accounted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from nrp_simserver.cores import NrpCore, number_of_iterations
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.gate import Gate

RunLoop = Callable[..., tuple[bool, list[Any]]]
Result = TypeVar("Result")


class NRPSimulationTimeout(Exception):
    """The steps asked for would pass the SimulationTimeout; none of them was taken."""


class NRPCoreWrapper:
    """A co-simulation core for a script to drive; what is not defined here is the core's own.

    A call for many steps is split into calls for as few as the core takes at once, so that a pause, a stop or a step
    command takes effect between two.

    Args:
        core: an initialised core.
        gate: passed before each step.
        clock: counts the simulated time of the steps taken.
        on_steps_taken: called when the gate was opened for some steps and these are taken.
        real_time_factor: the most simulated seconds in a second of real time; 0 for as many as there can be.

    Attributes:
        run_loop: `run_loop(num_iterations=1)` advances by that many smallest timesteps and returns whether the status
            function reported done in any of them, and the trajectory. Raises `NRPSimulationTimeout` when they would
            pass the SimulationTimeout, ValueError for 0 iterations or fewer, TypeError for what is no number of them;
            then nothing advances.
        set_json_datapack: `set_json_datapack(datapack_name, engine_name, data)`: delivered with the next step or reset.
        set_proto_datapack: the same for a protobuf message.
        current_state: the core's: one of Created, Initialized, Running, Stopped, Failed.
        failure: the first exception that a step of the core raised since its last reset, None while there was none.
    """

    def __init__(
        self,
        core: NrpCore,
        gate: Gate,
        clock: SimulationClock,
        on_steps_taken: Callable[[], None] = lambda: None,
        *,
        real_time_factor: float = 0.0,
    ) -> None:
        self._core = core
        self._gate = gate
        self._clock = clock
        self._on_steps_taken = on_steps_taken
        self._real_time_factor = real_time_factor
        self._timestep_ns = core.timestep_ns
        # What a core gathered in the steps after one that was done; those that have no such method keep it.
        self._gathered: Callable[[], list[Any]] = getattr(core, "gathered", list)
        clock.timeout_ns = core.timeout_ns
        clock.timestep_ns = core.timestep_ns
        self.failure: Exception | None = None
        # Bound here once: looking a method up on a class that has __getattr__ is the slow way in CPython.
        self.run_loop = self._run_steps if real_time_factor else self._quick_run_loop()
        self.set_json_datapack = core.set_json_datapack
        self.set_proto_datapack = core.set_proto_datapack
        self.current_state = core.current_state

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        """Advance until the status function reports done or the timeout is reached.

        Returns:
            (done, timed_out, trajectory)
        """
        while (left := self._steps_left()) is None or left > 1:
            _, (done, trajectory) = self._gated(
                self._core.run_loop, self._core.steps_at_once if left is None else left - 1
            )
            if done:
                return True, False, trajectory
        if left == 0:
            self._gate.wait()
            return self._core.run_until_timeout()
        # Left to the core, which hands out what was gathered.
        _, result = self._gated(lambda _: self._core.run_until_timeout(), 1)
        return result

    def reset(self) -> list[Any]:
        """Bring the co-simulation back to t = 0; the script goes on. Returns the observations."""
        self._gate.wait()
        observations = self._core.reset()
        self._clock.rewind()
        self.failure = None
        return observations

    def initialize(self, *_arguments: object, **_keywords: object) -> NoReturn:
        """Refused: the simulation is initialised before its script begins."""
        raise NotImplementedError("initialize() is not for scripts: the simulation is initialised already")

    def shutdown(self, *_arguments: object, **_keywords: object) -> NoReturn:
        """Refused: the simulation is shut down when it is stopped."""
        raise NotImplementedError("shutdown() is not for scripts: the simulation is shut down when it is stopped")

    def stop(self, *_arguments: object, **_keywords: object) -> NoReturn:
        """Refused: a simulation is stopped from outside; a script just ends."""
        raise NotImplementedError("stop() is not for scripts: a script just ends, a simulation is stopped from outside")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._core, name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *dir(self._core)})

    def _quick_run_loop(self) -> RunLoop:
        """`run_loop` with the case of every day first: one step through an open gate."""
        gate, clock, timestep_ns = self._gate, self._clock, self._timestep_ns
        step, run_steps = self._core.run_loop, self._run_steps
        # The last time at which a step may begin; without a timeout one that no simulation reaches.
        last_begin_ns = clock.timeout_ns - timestep_ns if clock.timeout_ns else 2**63

        def run_loop(num_iterations: int = 1) -> tuple[bool, list[Any]]:
            """Advance by `num_iterations` smallest timesteps; returns (done, trajectory)."""
            if gate.is_open and num_iterations == 1 and clock.time_ns <= last_begin_ns:
                try:
                    result = step(1)
                except Exception as failure:
                    self.failure = self.failure or failure
                    raise
                clock.time_ns += timestep_ns
                return result
            return run_steps(num_iterations)

        return run_loop

    def _run_steps(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        """Advance by `num_iterations` smallest timesteps; returns (done, trajectory)."""
        left = number_of_iterations(num_iterations)
        self._gate.wait()
        clock = self._clock
        if clock.timeout_ns and clock.time_ns + left * self._timestep_ns > clock.timeout_ns:
            raise NRPSimulationTimeout(
                f"{left} timesteps from t = {clock.simulation_time:g} s would pass the SimulationTimeout of "
                f"{clock.timeout_ns / 1e9:g} s"
            )
        any_done, gathered = False, []
        while left:
            steps, (done, trajectory) = self._gated(self._core.run_loop, left)
            any_done |= done
            gathered += trajectory
            left -= steps
        if any_done:
            gathered += self._gathered()
        return any_done, gathered

    def _gated(self, advance: Callable[[int], Result], most: int) -> tuple[int, Result]:
        """Have `advance(steps)` take as many steps as may be taken at once; returns (steps, what it returned)."""
        is_counted = not self._gate.is_open and self._gate.wait()
        steps = 1 if is_counted or self._real_time_factor else min(most, self._core.steps_at_once)
        try:
            result = advance(steps)
        except Exception as failure:
            self.failure = self.failure or failure
            raise
        self._clock.time_ns += steps * self._timestep_ns
        if is_counted and self._gate.step_taken():
            self._on_steps_taken()
        if self._real_time_factor:
            self._let_real_time_catch_up()
        return steps, result

    def _let_real_time_catch_up(self) -> None:
        """Wait until simulated time is not ahead any more, or a pause stops both."""
        while (ahead := self._clock.ahead(self._real_time_factor)) > 0 and self._gate.hold(ahead):
            pass

    def _steps_left(self) -> int | None:
        """How many steps it takes to reach the timeout, None when there is none."""
        clock = self._clock
        return max(0, -((clock.time_ns - clock.timeout_ns) // self._timestep_ns)) if clock.timeout_ns else None
