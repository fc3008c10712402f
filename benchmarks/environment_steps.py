"""What a step of a Gymnasium environment costs on top of the core's: two Python engines that exchange data."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from gymnasium.spaces import Box

from benchmarks.core_steps import JSON
from benchmarks.figures import Figure
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.gym import NrpEnv

STEPS = 1_000
ROUNDS = 15
TIMESTEPS = (1, 10)


def measure_environment() -> list[Figure]:
    """Environment and core in turn, on the same experiment; medians of rounds, in processor time."""
    return [_compare(timesteps) for timesteps in TIMESTEPS]


def _compare(timesteps: int) -> Figure:
    core = EmbeddedCore(JSON)
    core.initialize()
    env = NrpEnv(
        JSON,
        action_space=Box(-1, 1, (1,)),
        observation_space=Box(0, 1e9, (1,)),
        act=("seen", "sink"),
        observe=("count", "source"),
        reward=("count", "source"),
        steps=timesteps,
    )
    env.reset(seed=0)
    action = env.action_space.sample()
    runs: dict[str, Callable[[], object]] = {
        "core": lambda: core.run_loop(timesteps),
        "environment": lambda: env.step(action),
    }
    times_s: dict[str, list[float]] = {what: [] for what in runs}
    for _ in range(ROUNDS):
        for what, run in runs.items():
            began = time.process_time()
            for _ in range(STEPS):
                run()
            times_s[what].append((time.process_time() - began) / STEPS)
    env.close()
    core.shutdown()
    bare, trained_on = (statistics.median(times) for times in times_s.values())
    return Figure(
        f"a step of an environment, {timesteps} timesteps of two engines and a function",
        f"{trained_on * 1e6:.0f} us, the core alone {bare * 1e6:.0f} us: {bare / trained_on:.0%} of its speed",
    )
