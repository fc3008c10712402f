"""The gateway as a process of its own, under the web server that deployments have."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests

from nrp_common.bus import BrokerAddress
from nrp_common.topics import Topics
from tests.fakes import FakeLauncher, created
from tests.ports import free_port
from tests.waiting import wait_until

SERVE = """
import sys
from nrp_common.errors import NRPError
from nrp_gateway.serve import serve
from nrp_gateway.settings import GatewaySettings
if __name__ == "__main__":
    try:
        serve(GatewaySettings.load())
    except NRPError as error:
        sys.exit(str(error))
"""


class GatewayProcess:
    """A gateway that runs, and its address."""

    def __init__(self, broker: BrokerAddress, folder: Path, **settings: object) -> None:
        self.port = free_port()
        self.topics = Topics(uuid.uuid4().hex[:8])
        program = folder / "serve.py"
        program.write_text(SERVE)
        environment = {
            "NRP_MQTT_BROKER_ADDRESS": str(broker),
            "NRP_MQTT_PREFIX": self.topics.prefix,
            "NRP_DATA_DIRECTORY": str(folder / "data"),
            "NRP_PORT": str(self.port),
            **{name: str(value) for name, value in settings.items()},
        }
        self.process = subprocess.Popen(
            [sys.executable, str(program)], env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):  # it listens before it can answer
            return False

    def end(self, signal_number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        _, self.errors = self.process.communicate(timeout=40)
        return self.process.returncode


Start = Callable[..., GatewayProcess]
Served = tuple[GatewayProcess, FakeLauncher]


@pytest.fixture(scope="module")
def start(broker: BrokerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    running: list[GatewayProcess] = []

    def start_one(**settings: object) -> GatewayProcess:
        running.append(GatewayProcess(broker, tmp_path_factory.mktemp("gateway"), **settings))
        return running[-1]

    yield start_one
    for each in running:
        each.end()


@contextmanager
def serving(start: Start, broker: BrokerAddress) -> Iterator[Served]:
    gateway = start()
    launcher = FakeLauncher(broker, gateway.topics)
    wait_until(gateway.answers)
    wait_until(lambda: requests.get(f"{gateway.url}/ready", timeout=40).ok)
    yield gateway, launcher
    launcher.bus.close(linger_s=0.1)


@pytest.fixture(scope="module")
def served(start: Start, broker: BrokerAddress) -> Iterator[Served]:
    """A gateway that serves, for tests that leave it so."""
    with serving(start, broker) as served:
        yield served


@pytest.fixture
def to_be_ended(start: Start, broker: BrokerAddress) -> Iterator[Served]:
    """A gateway that serves, for one test."""
    with serving(start, broker) as served:
        yield served


def post(gateway: GatewayProcess, **options: Any) -> requests.Response:
    return requests.post(f"{gateway.url}/simulation", json={"experimentID": "demo"}, timeout=40, **options)


def test_simulation_is_launched_and_ruled_over_http(served: Served) -> None:
    gateway, _ = served
    answer = post(gateway)
    assert answer.status_code == 201
    state = f"{gateway.url}{answer.headers['Location']}/state"
    assert requests.put(state, json={"state": "started"}, timeout=40).json() == {"state": "started"}
    assert requests.get(state, timeout=40).json() == {"state": "started"}
    assert requests.get(f"{gateway.url}/slot/0/simulation", timeout=40).json() == []


@pytest.mark.alone
def test_reads_are_answered_while_many_launches_wait(served: Served) -> None:
    gateway, launcher = served
    launcher.end_all()
    launcher.on_launch = created
    statuses: list[int] = []
    waiting = [threading.Thread(target=lambda: statuses.append(post(gateway).status_code)) for _ in range(40)]
    for each in waiting:
        each.start()
    wait_until(lambda: launcher.running == 32 and statuses == [503] * 8)
    start = time.monotonic()
    listed = requests.get(f"{gateway.url}/simulation?state=created", timeout=40).json()
    assert time.monotonic() - start < 2
    assert len(listed) == 32
    launcher.behave()
    launcher.end_all()
    for each in waiting:
        each.join()
    assert sorted(statuses) == [201] * 32 + [503] * 8


def test_encoded_and_odd_paths_get_json(served: Served) -> None:
    gateway, _ = served
    for path in ("/simulation/%00", "/simulation/%2e%2e%2fx", "/%ff", "/simulation/1%0a"):
        connection = HTTPConnection("127.0.0.1", gateway.port, timeout=40)  # it sends what it is told to
        connection.request("GET", path)
        answer = connection.getresponse()
        assert (answer.status, json.load(answer)["type"]) == (404, "Client error")
        connection.close()


def test_body_that_is_too_large_is_refused_over_http(served: Served) -> None:
    gateway, _ = served
    answer = requests.post(f"{gateway.url}/simulation", data=b" " * (8 << 20), timeout=40)
    assert answer.status_code == 413


def test_interrupt_ends_the_gateway_without_leftovers(to_be_ended: Served) -> None:
    gateway, _ = to_be_ended
    workers = psutil.Process(gateway.process.pid).children(recursive=True)
    assert workers
    assert gateway.end(signal.SIGINT) == 0
    wait_until(lambda: not any(each.is_running() for each in workers))


@pytest.mark.parametrize("at_worker", [False, True], ids=["gateway", "worker, as by Ctrl-C"])
def test_gateway_that_is_told_to_end_many_times_ends(to_be_ended: Served, *, at_worker: bool) -> None:
    gateway, _ = to_be_ended
    (worker,) = psutil.Process(gateway.process.pid).children()
    for _ in range(200):
        gateway.process.send_signal(signal.SIGTERM)
        if at_worker and worker.is_running():
            with suppress(psutil.NoSuchProcess):
                worker.send_signal(signal.SIGINT)
    assert gateway.process.wait(15) == 0


def test_worker_does_not_survive_its_gateway(to_be_ended: Served) -> None:
    gateway, _ = to_be_ended
    workers = psutil.Process(gateway.process.pid).children(recursive=True)
    assert workers
    gateway.process.kill()
    wait_until(lambda: not any(each.is_running() for each in workers))


def worker_that_still_loads(gateway: GatewayProcess) -> psutil.Process:
    process = psutil.Process(gateway.process.pid)
    wait_until(lambda: gateway.process.poll() is not None or process.children())
    if gateway.process.poll() is not None:
        gateway.end()
        pytest.fail(f"the gateway ended by itself: {gateway.errors}")
    return process.children()[0]


def test_gateway_that_is_told_to_end_while_it_loads_ends(start: Start) -> None:
    gateway = start()
    worker = worker_that_still_loads(gateway)
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.process.wait(15) == 0  # and does not wait until its worker has to be killed, after 30 s
    assert not worker.is_running()


def test_worker_does_not_survive_a_gateway_that_is_killed_while_it_loads(start: Start) -> None:
    gateway = start()
    worker = worker_that_still_loads(gateway)
    gateway.process.kill()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE, 15)


def test_answer_that_is_being_made_is_finished_first(to_be_ended: Served) -> None:
    gateway, launcher = to_be_ended
    launcher.on_launch = created
    answers: list[requests.Response] = []
    asking = threading.Thread(target=lambda: answers.append(post(gateway)))
    asking.start()
    wait_until(lambda: launcher.simulations)
    gateway.process.send_signal(signal.SIGTERM)
    launcher.end_all()
    asking.join()
    assert answers[0].json()["state"] == "stopped"
    assert gateway.end() == 0


def test_port_that_is_taken_is_named(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        gateway = start(NRP_PORT=port)
        assert gateway.process.wait(60) == 1
        gateway.end()
    assert f"127.0.0.1:{port}" in gateway.errors


def test_gateway_without_authentication_does_not_start_for_other_machines(start: Start) -> None:
    gateway = start(NRP_HOST="0.0.0.0")
    assert gateway.process.wait(60) == 1
    gateway.end()
    assert "NRP_AUTHENTICATION" in gateway.errors
    assert "Traceback" not in gateway.errors


def test_gateway_whose_catalogue_cannot_be_reached_ends_and_says_so(start: Start, tmp_path: Path) -> None:
    gateway = start(NRP_CATALOGUE_URL=f"sqlite:///{tmp_path}")
    assert gateway.process.wait(60) != 0
    gateway.end()
    assert len(gateway.errors.splitlines()) == 1, gateway.errors
    assert "catalogue" in gateway.errors
