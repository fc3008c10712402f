"""Gateway and launchers on a secured broker, as processes, each with credentials of its own."""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from nrp_cli.rest_client import RestClient
from tests.lab import Service
from tests.ports import free_port
from tests.secured_broker import PlainBroker, SecuredBroker
from tests.simulation_servers import CONFIGURATION, ENDLESS, ENGINE
from tests.waiting import wait_until

SECRET = "the installation's secret"


class SecuredProduct:
    """One gateway, which keeps the experiments, and launchers; used as a context manager.

    Args:
        broker: that they get onto.
        folder: for their files.
        launchers: their names.
        settings: of the launchers, beyond what they need.
    """

    def __init__(
        self,
        broker: SecuredBroker | PlainBroker,
        folder: Path,
        launchers: tuple[str, ...] = ("one",),
        **settings: object,
    ) -> None:
        self.broker = broker
        self._folder = folder
        self.url = f"http://127.0.0.1:{free_port()}"
        self.gateway = self._service("gateway", "gateway", port=self.url.rpartition(":")[2])
        self.launchers = {
            name: self._service(name, "launcher", launcher_name=name, storage_url=self.url, **settings)
            for name in launchers
        }
        self.client = RestClient(self.url)

    def _service(self, name: str, kind: str, **own: object) -> Service:
        data = self._folder / name
        settings = {
            "data_directory": data,
            "secret_key": SECRET,
            "status_interval_s": 0.1,
            **self.broker.settings(kind),
            **own,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NRP_", "STORAGE_"))}
        environment |= {f"NRP_{name.upper()}": str(value) for name, value in settings.items()}
        return Service(name, kind, environment, data / "service.log")

    def __enter__(self) -> SecuredProduct:
        for each in (self.gateway, *self.launchers.values()):
            each.start()
        self.await_ready()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.launchers.values(), self.gateway):
            if each.process is not None and each.process.poll() is None:
                try:
                    each.end()
                except subprocess.TimeoutExpired:  # the others are to end all the same
                    each.kill()
        self.client.__exit__(None, None, None)

    def await_ready(self) -> None:
        """All launchers take launches."""

        def is_ready() -> bool:
            with suppress(requests.RequestException):
                return requests.get(f"{self.url}/ready", timeout=5).ok
            return False

        wait_until(is_ready, 30)

    def data(self, launcher: str = "one") -> Path:
        """The data folder of a launcher."""
        return self._folder / launcher

    def log(self, service: str) -> str:
        """What a service wrote."""
        return (self._folder / service / "service.log").read_text()

    def experiment(
        self, name: str, script: str = ENDLESS, *, configuration: dict[str, Any] | None = None, **files: str
    ) -> str:
        """Store an experiment with an engine that counts its steps. Returns its name."""
        folder = self._folder / f"experiment_{name}"
        folder.mkdir()
        content = {
            "simulation_config.json": json.dumps(CONFIGURATION if configuration is None else configuration),
            "engine.py": ENGINE,
            "main_script.py": script,
            **files,
        }
        for file, text in content.items():
            (folder / file).write_text(text)
        return self.client.import_experiment(folder, name)

    def launched(self, experiment: str) -> int:
        """The id of a simulation that is paused."""
        launched = self.client.launch(experiment)
        assert launched["state"] == "paused", launched
        return int(launched["simulationID"])

    def started(self, experiment: str) -> int:
        """The id of a simulation whose script executes."""
        simulation_id = self.launched(experiment)
        assert self.client.set_state(simulation_id, "started") == "started"
        return simulation_id

    def own_log(self, simulation_id: int, launcher: str = "one") -> str:
        """What a running simulation wrote to its log so far."""
        folder = self.data(launcher) / "simulations" / str(simulation_id)
        return (folder / f"simulation_{simulation_id}.log").read_text()
