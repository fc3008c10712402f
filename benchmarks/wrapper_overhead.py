"""What NRPCoreWrapper adds to a step, measured around a core that does nothing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

from benchmarks.figures import Figure
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper
from nrp_simserver.server.gate import Gate

STEPS = 100_000
ROUNDS = 15


class EmptyCore:
    """A core whose steps take no time."""

    timestep_ns = 1_000_000
    timeout_ns = 0
    steps_at_once = 1

    def initialize(self) -> list[Any]:
        return []

    def run_loop(self, num_iterations: int = 1) -> tuple[bool, list[Any]]:
        return False, []

    def run_until_timeout(self) -> tuple[bool, bool, list[Any]]:
        return False, False, []

    def reset(self) -> list[Any]:
        return []

    def shutdown(self) -> None:
        pass

    def set_json_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        pass

    def set_proto_datapack(self, datapack_name: str, engine_name: str, payload: Any) -> None:
        pass

    def current_state(self) -> str:
        return "Initialized"


def measure_wrapper() -> list[Figure]:
    """`nrp.run_loop()` of a running simulation over the bare `core.run_loop()`, alternately, medians of rounds."""
    core = EmptyCore()
    gate = Gate()
    gate.open()
    nrp = NRPCoreWrapper(core, gate, SimulationClock())
    bare, wrapped, many = [], [], []
    for _ in range(ROUNDS):
        bare.append(_seconds_a_call(lambda: _call_repeatedly(core)))
        wrapped.append(_seconds_a_call(lambda: _call_repeatedly(nrp)))
        many.append(_seconds_a_call(lambda: nrp.run_loop(STEPS)))
    floor = statistics.median(bare)
    return [
        Figure("NRPCoreWrapper over the bare run_loop()", _microseconds(wrapped, floor), "4-7 us", "1 us"),
        Figure("NRPCoreWrapper over the bare run_loop(), a step of run_loop(n)", _microseconds(many, floor)),
    ]


def _call_repeatedly(stepped: EmptyCore | NRPCoreWrapper) -> None:
    for _ in range(STEPS):
        stepped.run_loop()


def _seconds_a_call(calls: Callable[[], object]) -> float:
    began = time.perf_counter()
    calls()
    return (time.perf_counter() - began) / STEPS


def _microseconds(times_s: list[float], floor_s: float) -> str:
    return f"{(statistics.median(times_s) - floor_s) * 1e6:.2f} us"
