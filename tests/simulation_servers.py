"""Simulation servers as real processes, forked from a warmed one as launchers do it, and what is seen of them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from nrp_common.bus import BrokerAddress, Bus
from nrp_common.messages import Command, CommandEvent, Reply
from nrp_common.topics import Topics
from nrp_simserver import processes
from nrp_simserver.simulation_folder import Journal, ServerSetup, SimulationFolder
from tests.brokers import plain_port
from tests.waiting import wait_until

FORKER = """
import os, signal, sys
from pathlib import Path
from nrp_simserver.server.simulation_server import run
from nrp_simserver.simulation_folder import ServerSetup
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    pid = os.fork()
    if pid == 0:
        os.setsid()
        run(ServerSetup.model_validate_json(Path(line.strip()).read_bytes()))
    print(pid, flush=True)
"""

ENGINE = """
from nrp_core.engines.python_json import EngineScript

class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("steps")
        self._setDataPack("steps", {"n": 0})

    def runLoop(self, timestep_ns):
        self._setDataPack("steps", {"n": self._getDataPack("steps")["n"] + 1})

    def reset(self):
        self._setDataPack("steps", {"n": 0})

    def shutdown(self):
        print("the engine is shut down")
"""

ENDLESS = """
import time
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""

CONFIGURATION: dict[str, Any] = {
    "SimulationName": "counting",
    "EngineConfigs": [
        {"EngineType": "python_json", "EngineName": "counter", "PythonFileName": "engine.py", "EngineTimestep": 0.01}
    ],
}

_ids = itertools.count(1)


@dataclass(frozen=True)
class Seen:
    """A message as a client got it."""

    topic: str
    payload: bytes
    qos: int
    retain: bool

    @property
    def json(self) -> Any:
        return json.loads(self.payload)


class Wire:
    """What a frontend sees: a plain MQTT 3.1.1 client that subscribes to everything."""

    def __init__(self, broker: BrokerAddress) -> None:
        self.seen: list[Seen] = []
        self._subscribed = False
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv311)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: setattr(self, "_subscribed", True)
        self._client.on_message = lambda _client, _userdata, message: self.seen.append(
            Seen(message.topic, message.payload, message.qos, message.retain)
        )
        self._client.connect_async(broker.host, plain_port(broker))
        self._client.reconnect_delay_set(0.05, 0.2)  # type: ignore[arg-type]
        self._client.loop_start()
        wait_until(lambda: self._subscribed)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def on(self, topic: str) -> list[Seen]:
        """All messages on `topic` so far, in order."""
        return [seen for seen in list(self.seen) if seen.topic == topic]

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(5)


def server_process(incarnation: str) -> int:
    """The process id of a simulation server: of what bears its mark, the oldest. Ids begin anew at some time."""
    born: dict[int, float] = {}
    for pid in processes.marked({incarnation}):
        with suppress(psutil.NoSuchProcess):
            born[pid] = psutil.Process(pid).create_time()
    return min(born, key=born.__getitem__)


@dataclass
class RunningSimulation:
    """One simulation server and what is known of it from outside."""

    setup: ServerSetup
    wire: Wire
    pid: int = 0
    topics: Topics = field(default_factory=Topics)
    _asker: Bus | None = None

    @property
    def id(self) -> int:
        return self.setup.simulation_id

    @property
    def folder(self) -> SimulationFolder:
        return SimulationFolder(self.setup.folder, self.id)

    @property
    def journal(self) -> Journal:
        return self.folder.read_journal()

    @property
    def log(self) -> str:
        return self.folder.log.read_text()

    @property
    def lifecycle(self) -> list[dict[str, Any]]:
        return [seen.json for seen in self.wire.on(self.topics.lifecycle(self.id))]

    @property
    def transitions(self) -> list[str]:
        return [message["event"] for message in self.lifecycle]

    @property
    def statuses(self) -> list[dict[str, Any]]:
        messages = [seen.json for seen in self.wire.on(self.topics.status(self.id))]
        return [message for message in messages if "state" in message]

    @property
    def progress(self) -> list[dict[str, Any]]:
        messages = [seen.json for seen in self.wire.on(self.topics.status(self.id))]
        return [message["progress"] for message in messages if "progress" in message]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return [seen.json for seen in self.wire.on(self.topics.runtime_error(self.id))]

    def command(
        self, event: str, *, iterations: int = 1, timeout: float = 8.0, unless_changed_since: float | None = None
    ) -> Reply:
        """Ask as a gateway does; the last answer."""
        if self._asker is None:
            address = BrokerAddress(self.setup.broker_host, self.setup.broker_port)
            self._asker = Bus(address, "test", reply_topic=self.topics.reply(uuid.uuid4().hex))
            self._asker.start()
            self._asker.wait_until_connected(5)
        command = Command(
            deadline=time.time() + timeout,
            event=CommandEvent(event),
            iterations=iterations,
            unless_changed_since=unless_changed_since,
        )
        return self._asker.request(self.topics.command(self.id), command, timeout=timeout)

    def await_transition(self, event: str, timeout: float = 30.0) -> None:
        wait_until(lambda: event in self.transitions, timeout)

    def assert_transitions(self, expected: list[str]) -> None:
        """These were published and no others; the answer to a command may overtake them on its own connection."""
        wait_until(lambda: len(self.transitions) >= len(expected))
        assert self.transitions == expected

    def await_end(self, timeout: float = 30.0) -> None:
        """Wait for the end of the process."""
        wait_until(lambda: not self.is_running, timeout)

    def await_failure(self) -> Journal:
        """Wait for the end of the process; the journal, which has an error."""
        self.await_end()
        assert self.journal.error, self.log
        return self.journal

    @property
    def is_running(self) -> bool:
        try:
            return psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def close(self) -> None:
        if self._asker is not None:
            self._asker.close(linger_s=0.0)
        if self.is_running:
            os.kill(self.pid, signal.SIGKILL)
            self.await_end()


class Forker:
    """The warmed process."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def fork(self, setup: Path) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{setup}\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


class SimulationServers:
    """Starts simulation servers, and ends what a test leaves running."""

    def __init__(self, broker: BrokerAddress, wire: Wire, folder: Path, forker: Forker) -> None:
        self._broker = broker
        self._wire = wire
        self._folder = folder
        self._forker = forker
        self._running: list[RunningSimulation] = []

    def prepare(
        self,
        script: str | None = ENDLESS,
        *,
        engine: str = ENGINE,
        files: dict[str, str | bytes] | None = None,
        configuration: dict[str, Any] | None = None,
        main_script: str = "main_script.py",
        status_interval_s: float = 0.1,
        prefix: str = "",
        setup: dict[str, Any] | None = None,
    ) -> RunningSimulation:
        """The folder of a simulation that is not running yet. `configuration` and `setup` add to the usual ones."""
        simulation_id = next(_ids)
        server_setup = ServerSetup(
            simulation_id=simulation_id,
            incarnation=uuid.uuid4().hex,
            folder=self._folder / str(simulation_id),
            configuration="simulation_config.json",
            main_script=main_script,
            broker_host=self._broker.host,
            broker_port=self._broker.port,
            mqtt_prefix=prefix,
            status_interval_s=status_interval_s,
            **(setup or {}),
        )
        experiment = SimulationFolder(server_setup.folder, simulation_id).experiment
        experiment.mkdir(parents=True)
        contents: dict[str, str | bytes] = {
            "simulation_config.json": json.dumps({**CONFIGURATION, **(configuration or {})}),
            "engine.py": engine,
            **({"main_script.py": script} if script is not None else {}),
            **(files or {}),
        }
        for name, content in contents.items():
            (experiment / name).parent.mkdir(exist_ok=True)
            (experiment / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        (server_setup.folder / "setup.json").write_text(server_setup.model_dump_json())
        simulation = RunningSimulation(server_setup, self._wire, topics=Topics(prefix))
        self._running.append(simulation)
        return simulation

    def launch(self, script: str | None = ENDLESS, **preparation: Any) -> RunningSimulation:
        """A simulation server that has just been forked."""
        simulation = self.prepare(script, **preparation)
        simulation.pid = self._forker.fork(simulation.setup.folder / "setup.json")
        return simulation

    def paused(self, script: str | None = ENDLESS, **preparation: Any) -> RunningSimulation:
        """A simulation that is ready to be started."""
        simulation = self.launch(script, **preparation)
        simulation.await_transition("initialized")
        return simulation

    def started(self, script: str | None = ENDLESS, **preparation: Any) -> RunningSimulation:
        """A simulation whose script executes, or has ended already."""
        simulation = self.paused(script, **preparation)
        simulation.command("started")
        return simulation

    def close(self) -> None:
        for simulation in self._running:
            simulation.close()


@pytest.fixture(scope="session")
def forker() -> Iterator[Forker]:
    forker = Forker()
    yield forker
    forker.close()


@pytest.fixture
def wire(broker: BrokerAddress) -> Iterator[Wire]:
    wire = Wire(broker)
    yield wire
    wire.close()


@pytest.fixture
def servers(broker: BrokerAddress, wire: Wire, tmp_path: Path, forker: Forker) -> Iterator[SimulationServers]:
    servers = SimulationServers(broker, wire, tmp_path, forker)
    yield servers
    servers.close()
