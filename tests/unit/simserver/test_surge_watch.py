"""A surge of processes is noticed."""

from __future__ import annotations

import subprocess
import threading

import pytest

from nrp_simserver.resources.process_table import tasks_of_the_machine
from nrp_simserver.resources.surge_watch import SURGE, SurgeWatch
from tests.waiting import wait_until


class Machine:
    """One whose number of processes a test says."""

    def __init__(self) -> None:
        self.tasks = 200
        self.looks = 0

    def count(self) -> int:
        self.looks += 1
        return self.tasks

    def await_looks(self) -> None:
        before = self.looks
        wait_until(lambda: self.looks > before + 1)


def test_only_many_more_than_a_moment_ago_are_a_surge() -> None:
    machine, surges = Machine(), list[int]()
    watch = SurgeWatch(lambda: surges.append(machine.tasks), machine.count)
    watch.start()
    machine.await_looks()
    for tasks in (200 + SURGE - 1, 100, 100 + SURGE - 1, 1000, 1000, 900):
        machine.tasks = tasks
        machine.await_looks()
    watch.close()
    assert surges == [1000]


def test_watch_outlives_an_error(caplog: pytest.LogCaptureFixture) -> None:
    machine = Machine()

    def fail() -> None:
        raise ValueError("this once")

    watch = SurgeWatch(fail, machine.count)
    watch.start()
    machine.await_looks()
    machine.tasks = 1000
    machine.await_looks()
    machine.await_looks()
    watch.close()
    assert "this once" in caplog.text


def test_kernel_tells_how_many_processes_and_threads_there_are() -> None:
    assert tasks_of_the_machine() >= threading.active_count()
    assert tasks_of_the_machine() < int(subprocess.check_output(["cat", "/proc/sys/kernel/threads-max"]))
