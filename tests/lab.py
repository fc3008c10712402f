"""A whole installation under test: gateways, launchers and a Mosquitto, each a process, with proxies between them.

Everything that is said is recorded; `violations` tells what of it, or of what is left at the end, must not be.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import requests

from nrp_simserver import processes
from tests import mosquitto
from tests.history import FINAL, Client, History
from tests.mosquitto import Mosquitto
from tests.ports import free_port
from tests.simulation_servers import CONFIGURATION, ENGINE, Wire, server_process
from tests.storage_server import StorageServer
from tests.tcp_proxy import TcpProxy
from tests.waiting import wait_until

SECRET = "the installation's secret"

PACED = "import time\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.01)\n"
"""A main script as a hundred would run side by side on two cores."""


class Service:
    """A process of the installation, which can be killed and started again."""

    def __init__(self, name: str, kind: str, environment: dict[str, str], log: Path) -> None:
        self.name = name
        self._kind = kind
        self._environment = environment
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run; it may not be ready when this returns. Does nothing when it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "nrp_cli.services", self._kind], env=self._environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it without any warning."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def end(self, timeout: float = 60.0) -> int:
        """End it in order. Returns its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)


class Lab:
    """The installation; nothing runs before `start`.

    Args:
        folder: for all its files.
        gateways: how many; more than one need a `catalogue_url`.
        launchers: how many.
        capacity: how many simulations each launcher takes.
        catalogue_url: of the gateways; an SQLite file when not given.
        remembering: whether the broker keeps what is retained when it is restarted.
        proxied: whether there are proxies between the services, the broker and the storage.
        settings: of all services, beyond what they need.

    Attributes:
        proxies: by (service, "broker" or "storage").
    """

    def __init__(
        self,
        folder: Path,
        *,
        gateways: int = 1,
        launchers: int = 1,
        capacity: int = 20,
        catalogue_url: str = "",
        remembering: bool = False,
        proxied: bool = True,
        settings: dict[str, object] | None = None,
    ) -> None:
        self._folder = folder
        broker_folder = folder / "broker"
        broker_folder.mkdir(parents=True)
        self.broker = Mosquitto(broker_folder, mosquitto.REMEMBERING if remembering else mosquitto.CONFIGURATION)
        self.broker.start()
        storage_folder = folder / "storage"
        storage_folder.mkdir()
        self.storage = StorageServer(storage_folder)
        self.wire = Wire(self.broker.address)
        self.history = History(self.wire.seen)
        self.proxies: dict[tuple[str, str], TcpProxy] = {}
        self.gateways: list[Service] = []
        self.launchers: list[Service] = []
        self.clients: list[Client] = []
        self._capacity = capacity
        self._proxied = proxied
        common = {
            "mqtt_prefix": uuid.uuid4().hex[:8],
            "secret_key": SECRET,
            "status_interval_s": 0.5,
            **(settings or {}),
        }
        self.prefix = str(common["mqtt_prefix"])
        for number in range(gateways):
            name = f"gateway {number}"
            port = free_port()
            own = {"port": port, "authentication": "storage"} | (
                {"catalogue_url": catalogue_url} if catalogue_url else {}
            )
            self.gateways.append(self._service(name, "gateway", {**common, **own}))
            self.clients.append(Client(name, f"http://127.0.0.1:{port}", self.history, StorageServer.TOKEN))
        for number in range(launchers):
            own = {
                "launcher_name": f"launcher_{number}",
                "capacity": capacity,
            }
            self.launchers.append(self._service(f"launcher {number}", "launcher", {**common, **own}))

    def _service(self, name: str, kind: str, settings: dict[str, object]) -> Service:
        broker_port, storage_port = self.broker.address.port, int(self.storage.url.rpartition(":")[2])
        if self._proxied:
            broker = self.proxies[name, "broker"] = TcpProxy("127.0.0.1", broker_port)
            storage = self.proxies[name, "storage"] = TcpProxy("127.0.0.1", storage_port)
            broker_port, storage_port = broker.port, storage.port
        data = self._folder / name.replace(" ", "_")
        where = {
            "mqtt_broker_address": f"127.0.0.1:{broker_port}",
            "storage_url": f"http://127.0.0.1:{storage_port}",
            "data_directory": data,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NRP_", "STORAGE_"))}
        environment |= {f"NRP_{name.upper()}": str(value) for name, value in {**where, **settings}.items()}
        return Service(name, kind, environment, data / "service.log")

    # -- coming and going ----------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """Of the first gateway."""
        return self.clients[0]

    @property
    def services(self) -> list[Service]:
        return [*self.gateways, *self.launchers]

    def start(self) -> None:
        """Start what does not run, and wait until all can work."""
        for service in self.services:
            service.start()
        for client in self.clients:
            wait_until(lambda client=client: self._is_ready(client), 60)  # type: ignore[misc]

    def _is_ready(self, client: Client) -> bool:
        with suppress(requests.RequestException):
            answer = requests.get(f"{client.url}/ready", timeout=5)
            present = [bool(self.presence_of(service).get("online")) for service in self.launchers]
            return answer.ok and all(present)
        return False

    def heal(self) -> None:
        """No more faults: everything runs and reaches everything."""
        self.storage.heal()
        self.storage.start()
        if self.broker.is_running:
            self.broker.thaw()
        else:
            self.broker.start()
        for proxy in self.proxies.values():
            proxy.heal()
        self.start()

    def close(self) -> None:
        for service in self.services:
            if service.process is not None and service.process.poll() is None:
                try:
                    service.end(20)
                except subprocess.TimeoutExpired:
                    service.kill()
        processes.end_all(self._simulation_processes)
        for proxy in self.proxies.values():
            proxy.close()
        self.wire.close()
        self.storage.stop()
        self.broker.stop()

    # -- simulations ---------------------------------------------------------------------------------------------------

    def experiment(self, script: str = PACED, **files: str) -> str:
        """Store an experiment with an engine that counts its steps. Returns its name."""
        name = f"experiment_{uuid.uuid4().hex[:8]}"
        content = {
            "simulation_config.json": json.dumps(CONFIGURATION),
            "engine.py": ENGINE,
            "main_script.py": script,
            **files,
        }
        self.storage.put(name, content)
        return name

    def started(self, number: int, script: str = PACED) -> list[int]:
        """The ids of so many simulations whose scripts execute."""
        experiment = self.experiment(script)
        ids = []
        for _ in range(number):
            launched = self.client.launch(experiment)
            assert launched.status == 201, launched
            assert launched.state == "paused", launched
            simulation_id = launched.simulation_id
            assert simulation_id is not None
            assert self.client.ask(simulation_id, "started").state == "started"
            ids.append(simulation_id)
        return ids

    def ids(self) -> list[int]:
        """All simulations that were ever taken."""
        ids = [answer.simulation_id for answer in list(self.history.answers) if answer.method == "POST"]
        return sorted(each for each in ids if each is not None)

    def simulations_at(self, launcher: Service) -> list[int]:
        """Those that a launcher has a folder for."""
        return [int(folder.name) for folder in (launcher.log.parent / "simulations").iterdir()]

    def steps_of(self, simulation_id: int) -> float:
        """The simulated time that it told last, in seconds."""
        topic = f"{self.prefix}/nrp_simulation/{simulation_id}/status"
        told = [seen.json for seen in self.wire.on(topic) if b'"state"' in seen.payload]
        return float(told[-1]["simulationTime"]) if told else 0.0

    def await_steps(self, ids: list[int], timeout: float = 30.0) -> None:
        """All these advance."""
        before = {each: self.steps_of(each) for each in ids}
        wait_until(lambda: all(self.steps_of(each) > before[each] for each in ids), timeout)

    def states(self, client: Client | None = None) -> dict[int, str]:
        """What a gateway says of all simulations."""
        answer = (client or self.client).call("GET", "/simulation")
        return {each["simulationID"]: each["state"] for each in answer.body} if answer.status == 200 else {}

    def server_of(self, simulation_id: int) -> int:
        """The process id of a simulation's server."""
        incarnation = next(
            message["incarnation"] for message, _ in self.history.lifecycle()[simulation_id] if message["incarnation"]
        )
        return server_process(incarnation)

    # -- the end -------------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Heal everything, and stop every simulation."""
        self.heal()

        def all_final() -> bool:
            unfinished = [each for each, state in self.states().items() if state not in FINAL]
            stoppers = [threading.Thread(target=self.client.ask, args=(each, "stopped")) for each in unfinished]
            for stopper in stoppers:
                stopper.start()
            for stopper in stoppers:
                stopper.join()
            return not unfinished and bool(self.states() or not self.ids())

        wait_until(all_final, 120)

    def violations(self, timeout: float = 60.0) -> list[str]:
        """What must not be, of an installation that has settled: of what was said, and of what is left."""
        deadline = time.monotonic() + timeout
        while (left := self._left()) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [*self.history.violations(), *left]

    def _left(self) -> list[str]:
        found = [f"process {pid} of a simulation is left" for pid in self._simulation_processes()]
        for service in self.launchers:
            data = service.log.parent
            for folder in ("simulations", "spool"):
                found += [f"{path} is left" for path in (data / folder).glob("*")]
            presence = self.presence_of(service)
            if presence.get("running"):
                found.append(f"{service.name} says that it runs {presence['running']}")
        ended = [each for each in self.ids() if self.history.lifecycle().get(each)]
        for simulation_id in ended:
            archives = list(self.storage.root.glob(f"*/*_simulation_{simulation_id}.log.zip"))
            started = any(message["event"] == "initialized" for message, _ in self.history.lifecycle()[simulation_id])
            if len(archives) != 1 and (started or archives):
                found.append(f"{simulation_id}: its logs are stored {len(archives)} times")
        return found

    def presence_of(self, service: Service) -> dict[str, Any]:
        name = service._environment["NRP_LAUNCHER_NAME"]
        told = [seen.json for seen in self.wire.on(f"{self.prefix}/nrp_launcher/{name}/presence") if seen.payload]
        return dict(told[-1]) if told else {}

    def _simulation_processes(self) -> list[int]:
        incarnations = {
            message["incarnation"] for messages in self.history.lifecycle().values() for message, _ in messages
        } - {""}
        found = set(processes.marked(incarnations))
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if "simulations" in process.cwd() and Path(process.cwd()).is_relative_to(self._folder):
                    found.add(process.pid)
        return sorted(found)
