"""What a step of the embedded core costs: two Python engines that exchange data through one function."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, chdir
from pathlib import Path

from benchmarks.figures import Figure
from nrp_simserver.cores.embedded import EmbeddedCore

EXPERIMENTS = Path(__file__).parent / "experiments"
JSON = EXPERIMENTS / "endless"
MESSAGES = EXPERIMENTS / "messages"

STEPS = 2_000
ROUNDS = 15
INITIALISATIONS = 20
IMPORTS = 5


def measure_core() -> list[Figure]:
    """A step with datapacks passed by value and by reference, and how long it takes to get ready; medians of rounds."""
    return [
        Figure("a step, two engines and a function, by value", _step(JSON, "value"), "7000 us", "30 us"),
        Figure("a step, two engines and a function, by reference", _step(JSON, "reference"), "7000 us", "30 us"),
        Figure("a step, two python_grpc engines and a function, by value", _step(MESSAGES, "value")),
        Figure("a step, two python_grpc engines and a function, by reference", _step(MESSAGES, "reference")),
        Figure("initialise the experiment of python_json engines", _initialisation(JSON), "3800 ms", "10 ms"),
        Figure("initialise the experiment of python_grpc engines", _initialisation(MESSAGES)),
        Figure("import protobuf, once a process and only for python_grpc", _import_of_protobuf()),
    ]


def _step(experiment: Path, argument_passing: str) -> str:
    """In processor time: nothing in a step waits, and what else the machine does says nothing about the core."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        core = EmbeddedCore(copied(experiment, Path(scratch), argument_passing))
        stack.enter_context(chdir(core.folder))  # as a simulation server is
        core.initialize()
        core.run_loop(STEPS)
        times_s = []
        for _ in range(ROUNDS):
            began = time.process_time()
            for _ in range(STEPS):
                core.run_loop()
            times_s.append((time.process_time() - began) / STEPS)
        core.shutdown()
    return f"{statistics.median(times_s) * 1e6:.1f} us"


def _initialisation(experiment: Path) -> str:
    """From the configuration file on; all but the first find what Python keeps of an experiment on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = copied(experiment, Path(scratch), "value")
        times_s = []
        for _ in range(INITIALISATIONS):
            began = time.perf_counter()
            core = EmbeddedCore(folder)
            core.initialize()
            times_s.append(time.perf_counter() - began)
            core.shutdown()
    return f"{statistics.median(times_s) * 1e3:.1f} ms"


def _import_of_protobuf() -> str:
    code = (
        "import time; began = time.perf_counter(); import google.protobuf.internal.builder;"
        "print(time.perf_counter() - began)"
    )
    times_s = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(IMPORTS)]
    return f"{statistics.median(times_s) * 1e3:.0f} ms"


def copied(experiment: Path, scratch: Path, argument_passing: str = "value") -> Path:
    """A copy of an experiment in the folder `scratch`, with functions' arguments passed like that."""
    folder = Path(shutil.copytree(experiment, scratch / "experiment"))
    file = folder / "simulation_config.json"
    configuration = json.loads(file.read_text()) | {"FunctionArgumentsPassingMethod": argument_passing}
    file.write_text(json.dumps(configuration))
    return folder
