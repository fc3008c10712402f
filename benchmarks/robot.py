"""How much faster than real time the robot of the examples runs, with MuJoCo, NEST and all that it streams."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.figures import Figure
from nrp_simserver.cores.configuration import load_configuration
from nrp_simserver.cores.embedded import EmbeddedCore

ROBOT = Path(__file__).parents[1] / "examples" / "braitenberg_husky"
EVERY = "EngineConfigs.EngineName:husky.EngineExtraConfigs.picture_every_s"
ROUNDS = 9


def measure_robot() -> list[Figure]:
    """From its start to the ball; medians of rounds."""
    return [
        Figure("a robot in MuJoCo and its brain in NEST, simulated over real time", _real_time_factor(0.0)),
        Figure("the same with a camera at 10 Hz, 160 x 120, JPEG", _real_time_factor(0.1), "", "5x"),
    ]


def _real_time_factor(picture_every_s: float) -> str:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(ROBOT, Path(scratch) / "robot"))
        configuration = load_configuration(folder, overrides={EVERY: picture_every_s})
        core = EmbeddedCore(folder, configuration=configuration, publisher=lambda *_: None)
        core.initialize()
        factors = []
        for _ in range(ROUNDS):
            core.reset()
            began = time.perf_counter()
            core.run_until_timeout()
            factors.append(core.time_ns * 1e-9 / (time.perf_counter() - began))
        core.shutdown()
    return f"{statistics.median(factors):.1f}x"
