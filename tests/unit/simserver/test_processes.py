"""Whose a process is, and how those of a simulation are ended."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from nrp_simserver import processes
from tests.waiting import wait_until

Start = Callable[..., subprocess.Popen[bytes]]

SLEEP = ["sleep", "600"]

SPAWNER = """
import os, subprocess, sys
from nrp_simserver import processes
processes.adopt_orphans()
server = subprocess.Popen([sys.executable, "-c", sys.argv[1]], start_new_session=True)
print(server.pid, flush=True)
server.wait()
print("ended", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def start(command: list[str] = SLEEP, **options: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, **options)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def marked_environment(incarnation: str) -> dict[str, str]:
    return {**os.environ, processes.MARK: incarnation}


# -- marks -------------------------------------------------------------------------------------------------------------


def test_marked_processes_are_found_by_their_mark_only(start: Start) -> None:
    ours, others = uuid.uuid4().hex, uuid.uuid4().hex
    process = start(env=marked_environment(ours))
    start(env=marked_environment(others))
    start()
    wait_until(lambda: processes.mark_of(process.pid) == ours)
    assert processes.marked({ours}) == [process.pid]


def test_process_that_ended_is_not_found(start: Start) -> None:
    incarnation = uuid.uuid4().hex
    process = start(["true"], env=marked_environment(incarnation))
    wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert processes.marked({incarnation}) == []
    assert processes.has_ended(process.pid)
    process.wait()
    assert processes.has_ended(process.pid)
    assert processes.mark_of(process.pid) is None


def test_mark_reaches_a_mere_fork_and_its_children(start: Start) -> None:
    incarnation = uuid.uuid4().hex
    program = f"""
import os, subprocess, sys
from nrp_simserver import processes
if os.fork() == 0:
    processes.mark({incarnation!r})
    subprocess.Popen(["sleep", "600"])
    print(flush=True)
    sys.stdin.read()
os.wait()
"""
    process = start(
        [sys.executable, "-c", program],
        env=marked_environment(processes.UNMARKED),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    process.stdout.readline()
    wait_until(lambda: len(processes.marked({incarnation})) == 2)
    assert process.pid not in processes.marked({incarnation})
    assert processes.end_all(lambda: processes.marked({incarnation}))


# -- what a server leaves behind ---------------------------------------------------------------------------------------


def names(pids: list[int]) -> list[str]:
    """What those are called that have not ended meanwhile."""
    found = []
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            found.append(psutil.Process(pid).name())
    return found


@pytest.mark.parametrize(
    "leaving",
    [
        "subprocess.Popen(['sleep', '600'], env={})",
        "subprocess.Popen(['sleep', '600'], start_new_session=True, cwd='/')",
        "subprocess.Popen(['sleep', '600'], start_new_session=True, env={})",
        "subprocess.Popen(['sleep', '600'], start_new_session=True, env={}, cwd='/', stdout=open('log', 'w'))",
        "os.fork() or (os.setsid(), os.fork() and os._exit(0), os.execvp('sleep', ['sleep', '600']))",
    ],
    ids=["in its session", "with its mark", "in its folder", "writing into its folder", "a daemon"],
)
def test_what_a_server_leaves_behind_is_found_and_ended(start: Start, tmp_path: Path, leaving: str) -> None:
    incarnation = uuid.uuid4().hex
    spawner = start(
        [sys.executable, "-c", SPAWNER, f"import os, subprocess\n{leaving}"],
        cwd=tmp_path,
        env=marked_environment(incarnation),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    bystander = start()
    assert spawner.stdout is not None
    server = int(spawner.stdout.readline())
    assert spawner.stdout.readline() == b"ended\n"

    def left() -> list[int]:
        return processes.left_behind(spawner.pid, server, incarnation, tmp_path)

    wait_until(lambda: names(left()) == ["sleep"])
    assert processes.end_all(left)
    assert left() == []
    assert spawner.poll() is None
    assert bystander.poll() is None


def test_other_servers_and_what_is_below_them_are_left_alone(start: Start, tmp_path: Path) -> None:
    other = start([sys.executable, "-c", "import subprocess; subprocess.run(['sleep', '600'])"], cwd=tmp_path)
    wait_until(lambda: psutil.Process(other.pid).children())
    below = {other.pid, psutil.Process(other.pid).children()[0].pid}
    assert set(processes.left_behind(os.getpid(), 1, "-", tmp_path)) == below
    assert processes.left_behind(os.getpid(), 1, "-", tmp_path, besides={other.pid}) == []


def test_process_that_starts_others_faster_than_it_is_killed_is_ended(start: Start) -> None:
    incarnation = uuid.uuid4().hex
    program = """
import os, time
print(flush=True)
for _ in range(40):
    if os.fork():
        os._exit(0)
    time.sleep(0.02)
"""
    first = start([sys.executable, "-c", program], env=marked_environment(incarnation), stdout=subprocess.PIPE)
    assert first.stdout is not None
    first.stdout.readline()
    assert processes.end_all(lambda: processes.marked({incarnation}))
    assert processes.marked({incarnation}) == []


def test_who_is_missed_while_others_are_started_is_looked_for_again(start: Start) -> None:
    runaway, misses = start(), 4

    def find() -> list[int]:
        nonlocal misses
        if misses:
            misses -= 1
            start()
            return []
        return [] if processes.has_ended(runaway.pid) else [runaway.pid]

    assert processes.end_all(find)
    assert processes.has_ended(runaway.pid)


def test_what_cannot_be_ended_is_said_and_waited_for_no_longer(caplog: pytest.LogCaptureFixture) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    assert not processes.end_all(lambda: {gone.pid}, timeout=0.1)
    assert str(gone.pid) in caplog.text


PRIVATE = """
import os, sys, time
from pathlib import Path
from nrp_simserver import processes

read, write = os.pipe()
looked_at = os.fork()
if looked_at == 0:
    os.setuid(65534)
    processes._prctl(processes._PR_SET_DUMPABLE, 1)  # which the change of user took away
    if sys.argv[1] == "private":
        processes.be_private()
        assert os.listdir("/proc/self/fd")  # it sees itself
    os.write(write, b"x")
    time.sleep(30)
os.read(read, 1)
os.setuid(65534)
try:
    Path(f"/proc/{looked_at}/environ").read_bytes()
    print("readable")
except PermissionError:
    print("not readable")
os.kill(looked_at, 9)
os.waitpid(looked_at, 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize(("kind", "outcome"), [("private", "not readable"), ("usual", "readable")])
def test_what_is_private_is_not_read_by_others_of_the_same_user(kind: str, outcome: str) -> None:
    ended = subprocess.run([sys.executable, "-c", PRIVATE, kind], capture_output=True, text=True, timeout=30)
    assert ended.stdout.strip() == outcome, ended.stderr


# -- what they write ---------------------------------------------------------------------------------------------------

FORK_BESIDE_A_WRITER = """
import os, select, sys, threading
from nrp_simserver import processes

output = sys.stdout = processes.line_buffered(1)
writer = threading.Thread(target=output.write, args=("x" * 1_000_000 + "\\n",))
writer.start()
while select.select([], [1], [], 0)[1]:  # until the pipe is full
    pass
child = os.fork()
if child == 0:
    print("the fork")
    processes.leave(0)
os.waitpid(child, 0)
writer.join()
"""


def test_a_fork_beside_a_thread_that_writes_can_write_and_end(start: Start) -> None:
    process = start([sys.executable, "-W", "ignore", "-c", FORK_BESIDE_A_WRITER], stdout=subprocess.PIPE)
    wait_until(lambda: psutil.Process(process.pid).children())
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert output.count(b"x") == 1_000_000
    assert output.count(b"the fork\n") == 1


def test_what_is_written_arrives_line_by_line_and_whole() -> None:
    reading, writing = os.pipe()
    file = processes.line_buffered(writing)
    file.write("two ")
    file.write("parts\nand ")
    assert os.read(reading, 100) == b"two parts\nand "
    file.write("a \udcff half")
    file.flush()
    assert os.read(reading, 100) == b"a \\udcff half"
    file.close()
    os.close(writing)  # it was left open
    os.close(reading)


def test_a_descriptor_that_takes_no_more_is_told() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    file = processes.line_buffered(writing)
    with pytest.raises(BlockingIOError):
        file.write("x" * 1_000_000 + "\n")
    os.close(reading)
    os.close(writing)
