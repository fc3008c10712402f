"""Experiments made by tests, and what a stack makes of them."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import requests

from tests.e2e.conftest import RunningStack
from tests.e2e.websocket_frontend import Frontend
from tests.waiting import wait_until

ENGINE = """
from nrp_core.engines.python_json import EngineScript

class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("count")
        self._setDataPack("count", {"n": 0})

    def runLoop(self, timestep_ns):
        self._setDataPack("count", {"n": self._getDataPack("count")["n"] + 1})

    def shutdown(self):
        print("the engine is shut down")
"""

PACED = """
import time
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""

CONFIGURATION: dict[str, Any] = {
    "SimulationName": "counting",
    "EngineConfigs": [{"EngineType": "python_json", "EngineName": "counter", "PythonFileName": "engine.py"}],
}

_numbers = itertools.count(1)


def experiment(
    stack: RunningStack,
    script: str = PACED,
    *,
    configuration: dict[str, Any] | str | None = None,
    files: dict[str, str] | None = None,
) -> str:
    """Store an experiment with an engine that counts its steps; `configuration` adds to its own, or is the text."""
    name = f"made_{next(_numbers)}"
    if not isinstance(configuration, str):
        configuration = json.dumps({**CONFIGURATION, **(configuration or {})})
    contents = {"simulation_config.json": configuration, "engine.py": ENGINE, "main_script.py": script, **(files or {})}
    assert requests.put(f"{stack.url}/storage/{name}", timeout=10).status_code == 200
    for path, content in contents.items():
        url = f"{stack.url}/storage/{name}/{quote(path, safe='')}"
        headers = {"Content-Type": "application/octet-stream"}
        assert requests.post(url, data=content.encode(), headers=headers, timeout=10).status_code == 200
    return name


def launch(stack: RunningStack, experiment_id: str, **asked: object) -> dict[str, Any]:
    """The record that the launch answered."""
    answer = stack.post("/simulation", {"experimentID": experiment_id, **asked})
    assert answer.status_code == 201, answer.text
    record: dict[str, Any] = answer.json()
    return record


def started(stack: RunningStack, experiment_id: str, **asked: object) -> int:
    """The id of a simulation whose script executes."""
    record = launch(stack, experiment_id, **asked)
    assert record["state"] == "paused", record
    number: int = record["simulationID"]
    assert stack.put_state(number, "started").json() == {"state": "started"}
    return number


def record_of(stack: RunningStack, number: int) -> dict[str, Any]:
    record: dict[str, Any] = stack.get(f"/simulation/{number}").json()
    return record


def failed(stack: RunningStack, number: int) -> dict[str, Any]:
    """The record, once the simulation has failed."""
    wait_until(lambda: record_of(stack, number)["state"] == "failed", 20)
    return record_of(stack, number)


def the_report(frontend: Frontend, number: int) -> dict[str, Any]:
    """The one message on the simulation's topic of errors."""
    topic = f"nrp_simulation/{number}/runtime_error"
    frontend.wait_for(lambda: bool(frontend.of(topic)))
    (report,) = frontend.of(topic)
    return dict(report)


def log_of(stack: RunningStack, record: dict[str, Any]) -> str:
    """The simulation's own log, from its archive."""
    archive = stack.get(f"/simulation/{record['simulationID']}/logs").content
    return zipfile.ZipFile(io.BytesIO(archive)).read(f"simulation_{record['simulationID']}.log").decode()


def assert_nothing_is_left(stack: RunningStack, number: int) -> None:
    """No folder, and no process that works in it or writes to its log."""
    folder = stack.data / "simulations" / str(number)
    wait_until(lambda: not folder.exists())
    wait_until(lambda: not list(processes_in(folder)))


def processes_in(folder: Path) -> Iterator[int]:
    """The ids of processes whose working directory or output is in a folder, be it deleted."""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            for link in ("cwd", "fd/1"):
                with suppress(OSError):
                    if (process / link).readlink().is_relative_to(folder):
                        yield int(process.name)
