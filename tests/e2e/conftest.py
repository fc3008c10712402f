"""The product as a user has it: `nrp up` as a process, driven from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from nrp_cli.rest_client import RestClient
from tests.e2e.websocket_frontend import Frontend

EXAMPLES = Path(__file__).parents[2] / "examples"
NRP = [sys.executable, "-m", "nrp_cli.main"]


@dataclass
class RunningStack:
    """What `nrp up` said when it was ready."""

    process: subprocess.Popen[str]
    url: str
    mqtt: str
    websocket: str
    data: Path

    def post(self, path: str, body: object = None) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=40)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=40)

    def put_state(self, simulation_id: int, state: str) -> requests.Response:
        return requests.put(f"{self.url}/simulation/{simulation_id}/state", json={"state": state}, timeout=40)

    def nrp(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NRP_URL": self.url}
        return subprocess.run(
            [*NRP, *arguments], env=environment, capture_output=True, text=True, timeout=60, check=False
        )


def start_stack(data: Path, broker: str, *arguments: str) -> RunningStack:
    ports = ["--port", "0", "--mqtt-port", "0", "--mqtt-ws-port", "0"]
    if broker == "embedded":
        ports += ["--mqtt5-port", "0"]
    process = subprocess.Popen(
        [*NRP, "up", "--json", "--broker", broker, "--data", str(data), *ports, *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"nrp up ended with {process.wait()}"
    addresses = json.loads(line)
    return RunningStack(
        process, addresses["REST"], addresses["MQTT"].removeprefix("mqtt://"), addresses["WebSocket"], data
    )


def end_stack(stack: RunningStack) -> None:
    if stack.process.poll() is None:
        stack.process.terminate()
    stack.process.wait(timeout=60)
    if stack.process.stdout:
        stack.process.stdout.close()


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStack]:
    running = start_stack(tmp_path_factory.mktemp(f"data_{request.param}"), request.param, "--capacity", "8")
    with RestClient(running.url) as client:
        for example in EXAMPLES.iterdir():
            if (example / "simulation_config.json").exists():
                client.import_experiment(example, example.name)
    yield running
    end_stack(running)


@pytest.fixture
def frontend(stack: RunningStack) -> Iterator[Frontend]:
    with Frontend(stack.websocket) as connected:
        yield connected
