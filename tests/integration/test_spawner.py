"""A spawner as a launcher meets it: a process that says what it is, obeys one launcher at a time, and outlives it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nrp_common.bus import BrokerAddress
from nrp_simserver import processes
from nrp_simserver.placement.local import spawners
from nrp_simserver.placement.local.spawner_folder import SpawnerFolder
from nrp_simserver.placement.local.spawner_protocol import (
    AllTold,
    Dismiss,
    End,
    Hello,
    Idle,
    IdleGone,
    Lines,
    Order,
    Prepare,
    Report,
    Retire,
    report_in,
    to_line,
)
from nrp_simserver.simulation_folder import BusAccess
from tests.waiting import wait_until


class Launcher:
    """A launcher's end of the socket."""

    def __init__(self, folder: SpawnerFolder) -> None:
        self.socket = folder.connect()
        self.socket.settimeout(20)
        self._lines = Lines()
        self._reports: list[Report] = []

    def order(self, order: Order) -> None:
        self.socket.sendall(to_line(order))

    def next_report(self) -> Report | None:
        """The next one, None when the spawner has hung up."""
        while not self._reports:
            received = self.socket.recv(65536)
            if not received:
                return None
            reports = [report_in(line) for line in self._lines.add(received)]
            self._reports += [each for each in reports if each is not None]
        return self._reports.pop(0)

    def await_hello(self) -> Hello:
        hello = self.next_report()
        assert isinstance(hello, Hello)
        return hello

    def await_all_told(self) -> list[Report]:
        """What it is told of until it knows all."""
        told: list[Report] = []
        while not isinstance(report := self.next_report(), AllTold):
            assert report is not None
            told.append(report)
        return told

    def close(self) -> None:
        self.socket.close()


class RunningSpawner:
    """The process."""

    def __init__(self, folder: SpawnerFolder, broker: BrokerAddress) -> None:
        self.folder = folder
        self._access = BusAccess(broker_host=broker.host, broker_port=broker.port, mqtt_prefix=uuid.uuid4().hex[:8])
        self._launchers: list[Launcher] = []
        with folder.listen() as listener, folder.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", spawners.MODULE, folder.path, "the identity", str(listener.fileno())],
                env=os.environ | {processes.MARK: processes.UNMARKED},
                pass_fds=[listener.fileno()],
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def launcher(self, idle_servers: int = 0, orphaned_s: float = 600) -> Launcher:
        """A launcher that has connected, and ordered what it needs."""
        launcher = Launcher(self.folder)
        self._launchers.append(launcher)
        bus = self._access
        launcher.order(Prepare(idle_servers=idle_servers, bus=bus, orphaned_s=orphaned_s, stop_grace_s=1))
        return launcher

    @property
    def children(self) -> list[int]:
        return [child.pid for child in psutil.Process(self.process.pid).children()]

    def close(self) -> None:
        for launcher in self._launchers:
            launcher.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def spawner(broker: BrokerAddress, tmp_path: Path) -> Iterator[RunningSpawner]:
    spawner = RunningSpawner(SpawnerFolder(tmp_path / "spawner"), broker)
    yield spawner
    spawner.close()


def test_it_says_what_it_is_and_that_nothing_runs_yet(spawner: RunningSpawner) -> None:
    launcher = spawner.launcher()
    assert launcher.await_hello() == Hello(pid=spawner.process.pid, identity="the identity")
    assert launcher.await_all_told() == []


def test_next_launcher_is_told_of_what_is_there(spawner: RunningSpawner) -> None:
    first = spawner.launcher(idle_servers=2)
    first.await_hello()
    first.await_all_told()
    idle = [first.next_report(), first.next_report()]
    assert all(isinstance(report, Idle) for report in idle)
    first.close()
    second = spawner.launcher(idle_servers=2)
    second.await_hello()
    assert second.await_all_told() == idle


def test_launcher_that_comes_takes_the_place_of_the_one_before(spawner: RunningSpawner) -> None:
    first = spawner.launcher()
    first.await_hello()
    second = spawner.launcher()
    second.await_hello()
    assert first.next_report() == AllTold()
    assert first.next_report() is None
    second.order(End())
    assert spawner.process.wait(20) == 0


def test_idle_server_that_is_dismissed_goes_and_is_replaced(spawner: RunningSpawner) -> None:
    launcher = spawner.launcher(idle_servers=1)
    launcher.await_hello()
    launcher.await_all_told()
    idle = launcher.next_report()
    assert isinstance(idle, Idle)
    before = spawner.children
    launcher.order(Dismiss(incarnation=idle.incarnation))
    assert launcher.next_report() == IdleGone(incarnation=idle.incarnation)
    assert isinstance(launcher.next_report(), Idle)
    wait_until(lambda: len(spawner.children) == 1 and spawner.children != before)


def test_order_of_another_version_is_passed_over(spawner: RunningSpawner) -> None:
    launcher = spawner.launcher()
    launcher.socket.sendall(b'{"kind": "paint it black"}\nnonsense\n')
    launcher.order(Retire())
    launcher.await_hello()
    assert spawner.process.wait(20) == 0
    assert not spawner.folder.path.exists()


def test_without_a_launcher_it_ends_after_its_time_with_its_idle_servers(spawner: RunningSpawner) -> None:
    launcher = spawner.launcher(idle_servers=2, orphaned_s=0)
    launcher.await_hello()
    launcher.await_all_told()
    launcher.next_report()
    children = spawner.children
    launcher.close()
    assert spawner.process.wait(20) == 0
    assert not any(psutil.pid_exists(pid) for pid in children)
    assert not spawner.folder.path.exists()


def test_it_leaves_it_to_its_launcher_to_be_told_to_end(spawner: RunningSpawner) -> None:
    launcher = spawner.launcher()
    launcher.await_hello()
    launcher.await_all_told()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        spawner.process.send_signal(number)
    again = spawner.launcher()  # to be sure that the signals have arrived
    again.await_hello()
    wait_until(lambda: _hangs_up(launcher.socket))
    open_files = psutil.Process(spawner.process.pid).num_fds()
    again.close()
    wait_until(lambda: psutil.Process(spawner.process.pid).num_fds() < open_files)  # it knows that nobody is there
    spawner.process.send_signal(signal.SIGTERM)
    assert spawner.process.wait(20) == 0


def test_a_signal_is_judged_by_who_was_there_when_it_came(spawner: RunningSpawner) -> None:
    spawner.launcher().await_hello()
    spawner.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: psutil.Process(spawner.process.pid).status() == psutil.STATUS_STOPPED)
    spawner.process.send_signal(signal.SIGTERM)
    spawner.launcher().close()  # all that it finds at once
    spawner.process.send_signal(signal.SIGCONT)
    next_one = spawner.launcher()
    next_one.await_hello()
    next_one.await_all_told()
    assert spawner.process.poll() is None


def _hangs_up(connection: socket.socket) -> bool:
    return connection.recv(65536) == b""
