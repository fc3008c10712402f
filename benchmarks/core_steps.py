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

GRAPH = {"DataPackProcessor": "cg", "ComputationalGraph": ["graph.py"], "DataPackProcessingFunctions": []}
"""What has the JSON experiment do with a computational graph what it does with a function."""

STEPS = 2_000
WARM_UP = 500
ROUNDS = 15
INITIALISATIONS = 20
IMPORTS = 5


def measure_core() -> list[Figure]:
    """A step with datapacks passed by value and by reference, and how long it takes to get ready; medians of rounds."""
    json_by_value, json_by_reference = _steps(JSON)
    graph_by_value, _ = _steps(JSON, **GRAPH)
    messages_by_value, messages_by_reference = _steps(MESSAGES)
    return [
        Figure("a step, two engines and a function, by value", json_by_value, "7000 us", "25 us"),
        Figure("a step, two engines and a function, by reference", json_by_reference, "7000 us", "25 us"),
        Figure("a step, two engines and a node of a graph, by value", graph_by_value),
        Figure("a step, two python_grpc engines and a function, by value", messages_by_value),
        Figure("a step, two python_grpc engines and a function, by reference", messages_by_reference),
        *_beginning_and_end(JSON, "python_json", original="3800 ms", target="10 ms"),
        *_beginning_and_end(MESSAGES, "python_grpc"),
        Figure("import protobuf, once a process and only for python_grpc", _import_of_protobuf()),
    ]


def _steps(experiment: Path, **fields: object) -> tuple[str, str]:
    """A step by value and one by reference, in rounds that alternate: both meet the machine in all its moods."""
    rounds = [
        (_step_s(experiment, "value", **fields), _step_s(experiment, "reference", **fields)) for _ in range(ROUNDS)
    ]
    by_value, by_reference = (f"{statistics.median(times_s) * 1e6:.1f} us" for times_s in zip(*rounds, strict=True))
    return by_value, by_reference


def _step_s(experiment: Path, argument_passing: str, **fields: object) -> float:
    """In processor time: nothing in a step waits, and what else the machine does says nothing about the core."""
    with ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        core = EmbeddedCore(copied(experiment, Path(scratch), argument_passing, **fields))
        stack.enter_context(chdir(core.folder))  # as a simulation server is
        core.initialize()
        core.run_loop(WARM_UP)
        began = time.process_time()
        for _ in range(STEPS):
            core.run_loop()
        step_s = (time.process_time() - began) / STEPS
        core.shutdown()
    return step_s


def _beginning_and_end(experiment: Path, engines: str, *, original: str = "", target: str = "") -> list[Figure]:
    """From the configuration file on; all but the first find what Python keeps of an experiment on disk."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = copied(experiment, Path(scratch), "value")
        initialisations_s, shutdowns_s = [], []
        for _ in range(INITIALISATIONS):
            began = time.perf_counter()
            core = EmbeddedCore(folder)
            core.initialize()
            initialised = time.perf_counter()
            core.shutdown()
            initialisations_s.append(initialised - began)
            shutdowns_s.append(time.perf_counter() - initialised)
    initialisation, shutdown = statistics.median(initialisations_s), statistics.median(shutdowns_s)
    return [
        Figure(f"initialise the experiment of {engines} engines", f"{initialisation * 1e3:.1f} ms", original, target),
        Figure(f"shut the experiment of {engines} engines down", f"{shutdown * 1e3:.2f} ms"),
    ]


def _import_of_protobuf() -> str:
    code = (
        "import time; began = time.perf_counter(); import google.protobuf.internal.builder;"
        "print(time.perf_counter() - began)"
    )
    times_s = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(IMPORTS)]
    return f"{statistics.median(times_s) * 1e3:.0f} ms"


def copied(experiment: Path, scratch: Path, argument_passing: str = "value", **fields: object) -> Path:
    """A copy of an experiment in the folder `scratch`: arguments passed like that, with these fields configured."""
    folder = Path(shutil.copytree(experiment, scratch / "experiment"))
    file = folder / "simulation_config.json"
    configuration = json.loads(file.read_text()) | {"FunctionArgumentsPassingMethod": argument_passing, **fields}
    file.write_text(json.dumps(configuration))
    return folder
