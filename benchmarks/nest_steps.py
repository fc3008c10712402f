"""What a step of a small network costs that is read and stimulated: in NEST here, and in a NEST Server."""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack

from benchmarks.core_steps import EXPERIMENTS
from benchmarks.figures import Figure
from nrp_simserver.cores.configuration import load_configuration
from nrp_simserver.cores.embedded import EmbeddedCore

NETWORK = EXPERIMENTS / "network"
TYPES = ("nest_json", "nest_server")

STEPS = 200
ROUNDS = 9


def measure_nest() -> list[Figure]:
    """The same experiment with both types of engine, in turn; medians of rounds."""
    times_s: dict[str, list[float]] = {engine_type: [] for engine_type in TYPES}
    with ExitStack() as stack:
        cores = {}
        for engine_type in TYPES:
            overrides = {"EngineConfigs.0.EngineType": engine_type}
            core = EmbeddedCore(NETWORK, configuration=load_configuration(NETWORK, overrides=overrides))
            core.initialize()
            stack.callback(core.shutdown)
            cores[engine_type] = core
        for _ in range(ROUNDS):
            for engine_type, core in cores.items():
                began = time.perf_counter()
                core.run_loop(STEPS)
                times_s[engine_type].append((time.perf_counter() - began) / STEPS)
    here, there = (statistics.median(times_s[engine_type]) for engine_type in TYPES)
    return [
        Figure("a step of 10 neurons in NEST, read and stimulated", f"{here * 1e6:.0f} us"),
        Figure("the same in a NEST Server of its own", f"{there * 1e6:.0f} us, {there / here:.1f} times as long"),
    ]
