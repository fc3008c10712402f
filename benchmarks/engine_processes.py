"""Engines in processes of their own: what a step through one costs, and what two heavy engines gain."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from benchmarks.core_steps import EXPERIMENTS, JSON, copied
from benchmarks.figures import Figure
from nrp_simserver.cores.embedded import EmbeddedCore

STEPS = 1_000
HEAVY_STEPS = 40
ROUNDS = 9


def measure_engine_processes() -> list[Figure]:
    """The same experiments with engines here and apart, in turn; medians of rounds."""
    light = _compare(JSON, STEPS)
    heavy = _compare(EXPERIMENTS / "heavy", HEAVY_STEPS)
    return [
        Figure("a step, two engines in processes of their own and a function", f"{light[1] * 1e6:.0f} us", "7000 us"),
        Figure("a step, two engines of some 5 ms each, in the simulation's process", f"{heavy[0] * 1e3:.1f} ms"),
        Figure(
            "the same in processes of their own, on two cores",
            f"{heavy[1] * 1e3:.1f} ms, {heavy[0] / heavy[1]:.2f} times as fast",
        ),
    ]


def _compare(experiment: Path, steps: int) -> tuple[float, float]:
    """Seconds a step with the engines in this process, and with each in one of its own."""
    times_s: dict[str, list[float]] = {"needed": [], "all": []}
    with ExitStack() as stack:
        cores = {}
        for number, where in enumerate(times_s):
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            core = EmbeddedCore(copied(experiment, scratch / str(number)), engine_processes=where)
            core.initialize()
            stack.callback(core.shutdown)
            cores[where] = core
        for _ in range(ROUNDS):
            for where, core in cores.items():
                began = time.perf_counter()
                core.run_loop(steps)
                core.run_loop()  # which completes the last step of those apart
                times_s[where].append((time.perf_counter() - began) / (steps + 1))
    return statistics.median(times_s["needed"]), statistics.median(times_s["all"])
