"""What the processes of a simulation use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from nrp_simserver import processes
from nrp_simserver.resources.process_table import CpuAccount, Process, ProcessTable, memory_of, read_process
from tests.waiting import wait_until

SERVER = """
import os, subprocess, sys
subprocess.Popen(["sleep", "600"])
subprocess.Popen(["sh", "-c", "sleep 600; true"])
subprocess.Popen(["sleep", "600"], start_new_session=True)
if os.fork() == 0:  # a daemon
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "600"])
    os._exit(0)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def spawner() -> Iterator[None]:
    """This process adopts orphans, as a spawner does."""
    own = set(processes.children(os.getpid()))
    processes.adopt_orphans()
    yield
    processes._prctl(processes._PR_SET_CHILD_SUBREAPER, 0)
    for orphan in set(processes.children(os.getpid())) - own:
        os.waitpid(orphan, 0)


@pytest.fixture
def incarnation() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def server(spawner: None, incarnation: str) -> Iterator[int]:
    """The process id of a simulation server that has started five processes."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env={**os.environ, processes.MARK: incarnation},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdout.readline()
    yield process.pid
    processes.end_all(lambda: processes.marked({incarnation}))
    process.wait()
    process.stdout.close()
    process.stdin.close()


def names(found: list[Process]) -> list[str]:
    found = [each for each in found if not each.has_ended]
    return sorted(Path(f"/proc/{each.pid}/comm").read_text().strip() for each in found)


def test_simulation_has_all_that_its_server_started(server: int, incarnation: str, tmp_path: Path) -> None:
    table = ProcessTable()

    def started() -> list[str]:
        table.read()
        return names([each for each in table.of(server, incarnation, os.getpid(), tmp_path) if each.pid != server])

    wait_until(lambda: started() == ["sh", *["sleep"] * 4])
    assert server in {each.pid for each in table.of(server, incarnation, os.getpid(), tmp_path)}


def test_other_simulations_and_what_is_not_marked_are_others(server: int, incarnation: str, tmp_path: Path) -> None:
    table = ProcessTable()
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    other = subprocess.Popen(["sleep", "600"], start_new_session=True, env={processes.MARK: uuid.uuid4().hex})
    try:
        table.read()
        pids = {each.pid for each in table.of(server, incarnation, os.getpid(), tmp_path)}
        assert not pids & {bystander.pid, other.pid, os.getpid()}
        assert table.of(bystander.pid, "-", None, tmp_path)[0].pid == bystander.pid
    finally:
        for process in (bystander, other):
            process.kill()
            process.wait()


def test_all_of_a_simulation_are_killed_and_nothing_else(server: int, incarnation: str, tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        ProcessTable().kill(server, incarnation, os.getpid(), tmp_path)
        assert processes.marked({incarnation}) == []
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_process_whose_number_went_to_another_is_not_killed() -> None:
    from nrp_simserver.resources import process_table

    sleeping = subprocess.Popen(["sleep", "600"])
    try:
        process_table._kill(read_process(sleeping.pid)._replace(started=1))
        assert sleeping.poll() is None
    finally:
        sleeping.kill()
        sleeping.wait()


def test_line_of_the_kernel_is_read_whatever_the_program_is_called(tmp_path: Path) -> None:
    program = tmp_path / "a) R 1 (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "600"], start_new_session=True)
    try:
        wait_until(lambda: psutil.Process(process.pid).memory_info().rss > 0)
        read = read_process(process.pid)
        assert (read.pid, read.parent, read.session, read.has_ended) == (
            process.pid,
            os.getpid(),
            process.pid,
            False,
        )
    finally:
        process.kill()
        process.wait()


# -- memory ----------------------------------------------------------------------------------------------------------


def test_memory_that_two_processes_share_counts_once_where_it_matters() -> None:
    held = b"x" * 50_000_000
    child = os.fork()
    if child == 0:
        time.sleep(600)
    try:
        wait_until(lambda: psutil.Process(child).status() == psutil.STATUS_SLEEPING)
        both = [read_process(os.getpid()), read_process(child)]
        resident = sum(each.resident for each in both)
        assert resident > 2 * len(held)
        assert memory_of(both, resident) == resident
        assert memory_of(both, resident - 1) < resident - 0.8 * len(held)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


# -- CPU time --------------------------------------------------------------------------------------------------------


def process(pid: int, cpu: float, waited: float = 0.0, *, parent: int = 1, started: int = 0) -> Process:
    return Process(pid, started, parent, 1, False, cpu, waited, 0)


@pytest.mark.parametrize(
    ("looks", "used"),
    [
        ([[process(1, 2.0)]], 2.0),
        ([[process(1, 2.0)], [process(1, 5.0)]], 5.0),
        ([[process(1, 2.0), process(2, 1.0)]], 3.0),
        # A child ends and is waited for: its time appears at its parent, and is no new time.
        ([[process(1, 2.0), process(2, 1.0)], [process(1, 2.0, 1.0)]], 3.0),
        ([[process(1, 2.0), process(2, 1.0)], [process(1, 2.0, 1.5)]], 3.5),
        # A child that nobody ever saw.
        ([[process(1, 2.0)], [process(1, 2.0, 4.0)]], 6.0),
        # A child ends and nobody waits for it: what was seen of it stays.
        ([[process(1, 2.0), process(2, 1.0)], [process(1, 3.0)]], 4.0),
        # A child and its own child end in one go.
        (
            [[process(1, 0.0), process(2, 1.0, parent=1), process(3, 2.0, parent=2)], [process(1, 0.0, 3.0)]],
            3.0,
        ),
        # The number of one that ended goes to another.
        ([[process(1, 0.0), process(2, 5.0)], [process(1, 0.0), process(2, 1.0, started=9)]], 6.0),
    ],
)
def test_cpu_time_counts_once_whoever_ends(looks: list[list[Process]], used: float) -> None:
    account = CpuAccount()
    for look in looks:
        total = account.add(look)
    assert total == pytest.approx(used)


def test_real_cpu_time_is_that_of_the_kernel() -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
    account = CpuAccount()
    before = account.add([read_process(os.getpid())])
    subprocess.run([sys.executable, "-c", burn], check=True)
    assert account.add([read_process(os.getpid())]) - before >= 0.2


# -- in a hurry --------------------------------------------------------------------------------------------------------


def policies() -> dict[int, int]:
    """How each thread of this process is scheduled; libraries have some of their own."""
    found = {}
    for thread in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # it has just ended
            found[int(thread.name)] = os.sched_getscheduler(int(thread.name))
    return found


def test_process_runs_ahead_of_everybody_only_while_it_has_to() -> None:
    table, this, before = ProcessTable(), threading.get_native_id(), policies()
    with table.ahead_of_everybody():
        with table.ahead_of_everybody():
            policy = os.sched_getscheduler(this)
        child = subprocess.run(
            [sys.executable, "-c", "import os; print(os.sched_getscheduler(0))"], stdout=subprocess.PIPE
        )
    if policy == os.SCHED_OTHER:
        pytest.skip("this process may not")
    assert policy & ~os.SCHED_RESET_ON_FORK == os.SCHED_RR
    assert int(child.stdout) == os.SCHED_OTHER
    assert {thread: policy for thread, policy in policies().items() if policy != before.get(thread, policy)} == {}


def test_nobody_stays_ahead_when_two_were_in_a_hurry() -> None:
    table, first_is_in, second_waits = ProcessTable(), threading.Event(), threading.Event()

    def first() -> None:
        with table.ahead_of_everybody():
            first_is_in.set()
            second_waits.wait(10)

    def second() -> None:
        first_is_in.wait(10)
        second_waits.set()
        with table.ahead_of_everybody():
            pass

    threads = [threading.Thread(target=each) for each in (first, second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert os.sched_getscheduler(threading.get_native_id()) == os.SCHED_OTHER
