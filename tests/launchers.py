"""Launchers under test: the real process on a real broker and a real Storage Server, asked as gateways ask it."""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

import nrp_cli
import nrp_common
import nrp_shims
import nrp_simserver
from nrp_common.bus import BrokerAddress, Bus
from nrp_common.messages import ArchiveKind, Collect, Command, CommandEvent, Launch, Limits, Reply, Wishes
from nrp_common.token_seal import seal_token
from nrp_common.topics import Topics
from nrp_simserver import processes
from nrp_simserver.launcher.spool import MANIFEST
from nrp_simserver.placement.local import spawners
from tests.simulation_servers import CONFIGURATION, ENDLESS, ENGINE, Seen, Wire, server_process
from tests.storage_server import StorageServer
from tests.waiting import wait_until

SECRET = "the installation's secret"

_ids = itertools.count(1)


@dataclass
class Launched:
    """One simulation as its launcher was asked for it, and what is known of it from outside."""

    id: int
    experiment: str
    launcher: RunningLauncher
    reply: Reply = field(default_factory=Reply)

    @property
    def topics(self) -> Topics:
        return self.launcher.topics

    @property
    def incarnation(self) -> str:
        assert self.reply.incarnation is not None
        return self.reply.incarnation

    @property
    def folder(self) -> Path:
        return self.launcher.data / "simulations" / str(self.id)

    @property
    def own_log(self) -> str:
        """What it wrote to its log so far."""
        log = self.folder / f"simulation_{self.id}.log"
        return log.read_text() if log.exists() else ""

    @property
    def spooled(self) -> Path:
        return self.launcher.data / "spool" / str(self.id)

    def _on(self, topic: str) -> list[Any]:
        return [seen.json for seen in self.launcher.wire.on(topic) if seen.payload]

    @property
    def lifecycle(self) -> list[dict[str, Any]]:
        return self._on(self.topics.lifecycle(self.id))

    @property
    def finals(self) -> list[dict[str, Any]]:
        return [each for each in self.lifecycle if each["target_state"] in ("stopped", "failed")]

    @property
    def statuses(self) -> list[dict[str, Any]]:
        return [each for each in self._on(self.topics.status(self.id)) if "state" in each]

    @property
    def errors(self) -> list[dict[str, Any]]:
        return self._on(self.topics.runtime_error(self.id))

    def await_errors(self) -> list[dict[str, Any]]:
        """The same, once there is any: what its server said may come after what its launcher said later."""
        wait_until(lambda: self.errors)
        return self.errors

    @property
    def archives(self) -> list[dict[str, Any]]:
        return self._on(self.topics.archives(self.id))

    @property
    def simulation_time(self) -> float:
        return float(self.statuses[-1]["simulationTime"]) if self.statuses else 0.0

    def await_transition(self, event: str, timeout: float = 30.0) -> None:
        wait_until(lambda: self.finals or event in [each["event"] for each in self.lifecycle], timeout)
        assert event in [each["event"] for each in self.lifecycle], self.finals

    def await_final(self, timeout: float = 30.0) -> dict[str, Any]:
        """The final word."""
        wait_until(lambda: self.finals, timeout)
        return self.finals[-1]

    def await_final_status(self) -> dict[str, Any]:
        """The last status, which follows the final word."""
        wait_until(lambda: self.statuses and self.statuses[-1]["state"] in ("stopped", "failed"))
        return self.statuses[-1]

    def await_steps(self) -> None:
        """The simulated time advances."""
        now = self.simulation_time
        wait_until(lambda: self.simulation_time > now)

    def command(self, event: str, timeout: float = 8.0) -> Reply:
        command = Command(deadline=time.time() + timeout, event=CommandEvent(event))
        return self.launcher.asker.request(self.topics.command(self.id), command, timeout=timeout)

    def collect(self, kind: str) -> Reply:
        collect = Collect(deadline=time.time() + 8, simulation_id=self.id, kind=ArchiveKind(kind))
        return self.launcher.asker.request(self.topics.collect(self.launcher.name), collect, timeout=8)

    def stored(self, name: str | None) -> dict[str, bytes]:
        """What is in an archive in the experiment."""
        assert name is not None
        content = (self.launcher.storage.root / self.experiment / name).read_bytes()
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {each: archive.read(each) for each in archive.namelist()}

    def log_in(self, name: str | None) -> str:
        """The simulation's own log, in an archive in the experiment."""
        return self.stored(name)[f"simulation_{self.id}.log"].decode()

    @property
    def server(self) -> int:
        """The process id of the simulation server."""
        return server_process(self.incarnation)

    def processes(self) -> set[int]:
        """What runs of it: marked as its own, or working in its folder."""
        found = set(processes.marked({self.incarnation}))
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if Path(process.cwd().removesuffix(" (deleted)")).is_relative_to(self.folder):
                    found.add(process.pid)
        return found

    def assert_nothing_is_left(self, timeout: float = 30.0) -> None:
        """No process, no folder, nothing in the spool."""
        wait_until(lambda: not self.folder.exists(), timeout)
        wait_until(lambda: not self.spooled.exists(), timeout)
        assert not self.processes()


WITH_CONSTANTS = """
import importlib, runpy
for path, value in {constants}.items():
    module, _, name = path.rpartition(".")
    assert hasattr(importlib.import_module(module), name), path
    setattr(importlib.import_module(module), name, value)
runpy.run_module("nrp_cli.services", run_name="__main__", alter_sys=True)
"""


class RunningLauncher:
    """A launcher in a process of its own, started by `start`, and who asks it.

    Args:
        broker: that it finds.
        storage: likewise.
        data: its data directory.
        constants: values of constants of the code, by their whole names: for a test that would wait for them.
        settings: its settings, beyond those that it needs.
    """

    def __init__(
        self,
        broker: BrokerAddress,
        storage: StorageServer,
        data: Path,
        *,
        constants: Mapping[str, object] | None = None,
        **settings: object,
    ) -> None:
        self.storage = storage
        self.data = data
        self.name = "test"
        self.topics = Topics(uuid.uuid4().hex[:8])
        self.wire = Wire(broker)
        self.asker = Bus(broker, "test", reply_topic=self.topics.reply(uuid.uuid4().hex))
        self.asker.start()
        self._broker = broker
        self._settings = settings
        self._program = ["-c", WITH_CONSTANTS.format(constants=constants)] if constants else ["-m", "nrp_cli.services"]
        self._process: subprocess.Popen[bytes] | None = None
        self._launched: list[Launched] = []

    # -- the process ---------------------------------------------------------------------------------------------------

    def start(self, **variables: str) -> None:
        """Run; it may already be awaited, or still be looking for its broker, when this returns.

        Args:
            variables: further ones of its environment.
        """
        settings = {
            "mqtt_broker_address": self._broker,
            "mqtt_prefix": self.topics.prefix,
            "storage_url": self.storage.url,
            "secret_key": SECRET,
            "data_directory": self.data,
            "launcher_name": self.name,
            "status_interval_s": 0.1,
            **self._settings,
        }
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("NRP_", "STORAGE_"))}
        environment |= {f"NRP_{name.upper()}": str(value) for name, value in settings.items()}
        environment |= variables
        self.data.mkdir(parents=True, exist_ok=True)
        with (self.data / "launcher.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._program, "launcher"], env=environment, stdout=log, stderr=log
            )

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    @property
    def log(self) -> str:
        return (self.data / "launcher.log").read_text()

    @property
    def spawners(self) -> list[int]:
        """The process ids of its spawners, also of those that an earlier launcher started."""
        parents: dict[int, int] = {}
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                line = process.cmdline()
                if spawners.MODULE in line and any(Path(each).parent == self.data / "spawners" for each in line):
                    parents[process.pid] = process.ppid()
        return [pid for pid, parent in parents.items() if parent not in parents]  # those forked look the same

    @property
    def spawner(self) -> int:
        """The process id of its only spawner."""
        wait_until(lambda: len(self.spawners) == 1)
        return self.spawners[0]

    @property
    def idle(self) -> dict[str, int]:
        """The process ids of its idle servers that are on the bus, by incarnation."""
        online: dict[str, bool] = {}
        for seen in self.wire.seen:
            incarnation = self.topics.incarnation_of(seen.topic)
            if incarnation is not None:
                online[incarnation] = bool(seen.payload) and seen.json["online"] and seen.json["simulation_id"] is None
        pids = ((each, processes.marked({each})) for each, is_idle in online.items() if is_idle)
        return {incarnation: pid[0] for incarnation, pid in pids if pid}

    @property
    def presences(self) -> list[Seen]:
        return self.wire.on(self.topics.launcher_presence(self.name))

    def await_ready(self, after: int = 0) -> None:
        """Wait until it says that it takes launches, not counting its first `after` messages."""
        wait_until(lambda: any(seen.payload and seen.json["online"] for seen in self.presences[after:]), 60)
        self.asker.wait_until_connected(10)

    def await_closing(self) -> None:
        """Wait until it says that it takes no more launches, as it was told to end."""
        wait_until(lambda: any(seen.payload and seen.json["capacity"] == 0 for seen in self.presences))

    def restart(self, **variables: str) -> None:
        """Start again, and return when it takes launches."""
        before = len(self.presences)
        self.start(**variables)
        self.await_ready(before)

    @staticmethod
    def installed_again(folder: Path) -> dict[str, str]:
        """Variables with which `start` runs a copy of the code, in `folder`."""
        for package in (nrp_common, nrp_shims, nrp_simserver, nrp_cli):
            assert package.__file__ is not None
            shutil.copytree(Path(package.__file__).parent, folder / package.__name__)
        return {"PYTHONPATH": str(folder)}

    def kill(self) -> None:
        """End it without any warning."""
        self.process.kill()
        self.process.wait()

    def end(self, timeout: float = 60.0) -> int:
        """End it in order. Returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.storage.heal()
            try:
                self.end()
            except subprocess.TimeoutExpired:
                self.kill()
        for spawner in self.spawners:  # of a launcher that a test killed, or had leave its simulations
            os.kill(spawner, signal.SIGTERM)
        wait_until(lambda: not self.spawners)
        self.asker.close(linger_s=0.0)
        self.wire.close()

    # -- simulations ---------------------------------------------------------------------------------------------------

    def experiment(
        self,
        script: str = ENDLESS,
        *,
        configuration: dict[str, Any] | None = None,
        files: dict[str, str | bytes] | None = None,
    ) -> str:
        """Store an experiment with an engine that counts its steps. Returns its name."""
        name = f"experiment_{uuid.uuid4().hex[:8]}"
        self.storage.put(
            name,
            {
                "simulation_config.json": json.dumps({**CONFIGURATION, **(configuration or {})}),
                "engine.py": ENGINE,
                "main_script.py": script,
                **(files or {}),
            },
        )
        return name

    def ask_launch(
        self,
        simulation_id: int,
        experiment: str,
        *,
        token: str | None = None,
        secret: str = SECRET,
        limits: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        instance: str = "",
    ) -> Reply:
        """Ask as a gateway does; the answer."""
        launch = Launch(
            deadline=time.time() + 10,
            simulation_id=simulation_id,
            experiment_id=experiment,
            configuration="simulation_config.json",
            main_script="main_script.py",
            owner=StorageServer.OWNER,
            sealed_token=seal_token(token or StorageServer.TOKEN, secret),
            wishes=Wishes(limits=Limits(**(limits or {})), **(resources or {})),
            instance=instance,
        )
        return self.asker.request(self.topics.launch(self.name), launch, timeout=10)

    def launch(
        self,
        script: str = ENDLESS,
        *,
        token: str | None = None,
        secret: str = SECRET,
        limits: dict[str, Any] | None = None,
        resources: dict[str, Any] | None = None,
        **experiment: Any,
    ) -> Launched:
        """A simulation that was taken."""
        asked = {"token": token, "secret": secret, "limits": limits, "resources": resources}
        return self.launch_experiment(self.experiment(script, **experiment), **asked)

    def launch_experiment(self, experiment: str, **caller: Any) -> Launched:
        """The same of an experiment that is stored."""
        simulation = Launched(next(_ids), experiment, self)
        simulation.reply = self.ask_launch(simulation.id, experiment, **caller)
        assert simulation.reply.incarnation, simulation.reply
        self._launched.append(simulation)
        return simulation

    def end_simulations(self) -> None:
        """Have those stopped that were launched and not ended since."""
        while self._launched:
            simulation = self._launched.pop()
            if simulation.folder.exists() and not simulation.finals:
                simulation.command("stopped")
                simulation.await_final()

    def paused(self, script: str = ENDLESS, **experiment: Any) -> Launched:
        """A simulation that is ready to be started."""
        simulation = self.launch(script, **experiment)
        simulation.await_transition("initialized")
        return simulation

    def started(self, script: str = ENDLESS, **experiment: Any) -> Launched:
        """A simulation whose script executes."""
        simulation = self.paused(script, **experiment)
        assert simulation.command("started").error is None
        return simulation


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StorageServer]:
    with StorageServer(tmp_path_factory.mktemp("storage")) as storage:
        yield storage


@pytest.fixture(scope="module")
def shared_launcher(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningLauncher]:
    launcher = RunningLauncher(broker, storage, tmp_path_factory.mktemp("launcher"), capacity=8, stop_grace_s=2)
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


@pytest.fixture
def launcher(shared_launcher: RunningLauncher) -> Iterator[RunningLauncher]:
    """A launcher that the tests of a module share; its storage is healthy at the start of each."""
    yield shared_launcher
    shared_launcher.storage.heal()


@pytest.fixture
def launchers(broker: BrokerAddress, storage: StorageServer, tmp_path: Path) -> Iterator[Launchers]:
    launchers = Launchers(broker, storage, tmp_path)
    yield launchers
    launchers.close()


class Launchers:
    """Starts launchers for one test, and ends them with it."""

    def __init__(self, broker: BrokerAddress, storage: StorageServer, folder: Path) -> None:
        self._broker = broker
        self._storage = storage
        self.folder = folder
        self._running: list[RunningLauncher] = []

    def unstarted(self, *, broker: BrokerAddress | None = None, **settings: object) -> RunningLauncher:
        """A launcher that does not run yet; it looks for another broker when one is given."""
        data = self.folder / f"launcher_{len(self._running)}"
        launcher = RunningLauncher(broker or self._broker, self._storage, data, **settings)
        self._running.append(launcher)
        return launcher

    def running(self, *, broker: BrokerAddress | None = None, **settings: object) -> RunningLauncher:
        """A launcher that takes launches."""
        launcher = self.unstarted(broker=broker, **settings)
        launcher.start()
        launcher.await_ready()
        return launcher

    def close(self) -> None:
        self._storage.heal()
        for launcher in self._running:
            launcher.close()


def spool_entries(launcher: RunningLauncher) -> list[str]:
    """The simulations whose archives wait for the Storage Server."""
    return sorted(path.parent.name for path in (launcher.data / "spool").glob(f"*/{MANIFEST}"))
