"""Gateways under test: the real application on a real broker, called without HTTP in between."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from nrp_common.bus import BrokerAddress
from nrp_common.topics import Topics
from nrp_gateway.app import create_app
from nrp_gateway.gateway import Gateway
from nrp_gateway.settings import GatewaySettings
from tests.fakes import FakeLauncher, FakeSimulation, FakeStorageServer
from tests.waiting import wait_until


class RunningGateway:
    """A gateway, and how clients call it."""

    def __init__(self, settings: GatewaySettings) -> None:
        self.settings = settings
        self.topics: Topics = settings.topics
        self.app = create_app(settings)
        self.gateway: Gateway = self.app.extensions["nrp_gateway"]

    def close(self) -> None:
        self.gateway.close()

    def call(
        self, method: str, path: str, body: object = None, *, token: str | None = None, **options: Any
    ) -> TestResponse:
        """Call as NRP 4 clients do: JSON, whatever the content type says."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        headers |= options.pop("headers", {})
        data = body if isinstance(body, bytes) or body is None else json.dumps(body)
        return self.app.test_client().open(path, method=method, data=data, headers=headers, **options)

    def get(self, path: str, **options: Any) -> TestResponse:
        return self.call("GET", path, **options)

    def post(self, path: str, body: object = None, **options: Any) -> TestResponse:
        return self.call("POST", path, body, **options)

    def put(self, path: str, body: object = None, **options: Any) -> TestResponse:
        return self.call("PUT", path, body, **options)

    def delete(self, path: str, **options: Any) -> TestResponse:
        return self.call("DELETE", path, **options)

    def launch(self, experiment: str = "demo", *, through: str = "", token: str | None = None) -> int:
        """Launch an experiment. Returns the simulation's id."""
        answer = self.post(f"{through}/simulation", {"experimentID": experiment}, token=token)
        assert answer.status_code == 201, answer.text
        return int(answer.get_json()["simulationID"])

    def state(self, simulation_id: int, **options: Any) -> str:
        return str(self.get(f"/simulation/{simulation_id}/state", **options).get_json()["state"])

    def ask_state(self, simulation_id: int, state: str, **options: Any) -> TestResponse:
        return self.put(f"/simulation/{simulation_id}/state", {"state": state}, **options)

    def await_launcher(self) -> None:
        wait_until(lambda: self.gateway.presences.capacity)

    def await_state(self, simulation_id: int, state: str, **options: Any) -> None:
        wait_until(lambda: self.state(simulation_id, **options) == state)


class Installations:
    """Starts gateways and launchers that share topics of their own, and ends them with the test."""

    def __init__(self, broker: BrokerAddress, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._running: list[RunningGateway] = []
        self._launchers: list[FakeLauncher] = []
        self._storages: list[FakeStorageServer] = []
        self.prefix = uuid.uuid4().hex[:8]

    def gateway(self, **settings: Any) -> RunningGateway:
        """A gateway that is connected; all of one test share topics and catalogue."""
        gateway = self.unconnected_gateway(**settings)
        gateway.gateway.bus.wait_until_connected(10)
        return gateway

    def unconnected_gateway(self, **settings: Any) -> RunningGateway:
        given: dict[str, Any] = {
            "mqtt_broker_address": str(self._broker),
            "mqtt_prefix": self.prefix,
            "data_directory": self._folder / "data",
            **settings,
        }
        gateway = RunningGateway(GatewaySettings(**given))
        self._running.append(gateway)
        return gateway

    def launcher(self, **options: Any) -> FakeLauncher:
        launcher = FakeLauncher(self._broker, Topics(self.prefix), **options)
        self._launchers.append(launcher)
        return launcher

    def storage(self) -> FakeStorageServer:
        storage = FakeStorageServer()
        self._storages.append(storage)
        return storage

    def end(self, gateway: RunningGateway) -> None:
        """As if its process ended."""
        self._running.remove(gateway)
        gateway.close()

    def close(self) -> None:
        for running in self._running:
            running.close()
        for launcher in self._launchers:
            launcher.bus.close(linger_s=0.1)
        for storage in self._storages:
            storage.close()


@pytest.fixture(autouse=True, scope="session")
def no_settings_from_outside() -> Iterator[None]:
    """Clear what the settings would read."""
    with pytest.MonkeyPatch.context() as patch:
        import os

        for name in list(os.environ):
            if name.startswith(("NRP_", "STORAGE_")):
                patch.delenv(name)
        yield


@pytest.fixture
def installation(broker: BrokerAddress, tmp_path: Path) -> Iterator[Installations]:
    """For gateways and launchers of a test's own."""
    installation = Installations(broker, tmp_path)
    yield installation
    installation.close()


@pytest.fixture(scope="session")
def shared(broker: BrokerAddress, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningGateway, Any]]:
    installation = Installations(broker, tmp_path_factory.mktemp("gateway"))
    launcher, gateway = installation.launcher(), installation.gateway()
    gateway.await_launcher()
    yield gateway, launcher
    installation.close()


@pytest.fixture
def gateway(shared: tuple[RunningGateway, FakeLauncher]) -> RunningGateway:
    """A gateway that tests share: without authentication, with its own storage."""
    return shared[0]


@pytest.fixture
def launcher(shared: tuple[RunningGateway, FakeLauncher]) -> Iterator[FakeLauncher]:
    """The launcher of `gateway`; it behaves at the start of each test."""
    launcher = shared[1]
    launcher.behave()
    yield launcher
    launcher.behave()
    launcher.end_all()


@pytest.fixture
def simulation(gateway: RunningGateway, launcher: FakeLauncher) -> FakeSimulation:
    """A simulation that is paused."""
    return launcher.simulations[gateway.launch()]


def in_background(call: Any) -> threading.Thread:
    """Run `call` in a thread of its own."""
    thread = threading.Thread(target=call)
    thread.start()
    return thread
