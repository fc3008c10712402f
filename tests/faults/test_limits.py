"""A simulation that exceeds a limit is failed with the limit's name, its logs are stored, and no other is touched."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from nrp_common.bus import BrokerAddress
from nrp_common.errors import CommandTimeout
from nrp_common.messages import Refusal
from nrp_simserver.resources import cgroups
from tests.launchers import Launched, Launchers, RunningLauncher
from tests.storage_server import StorageServer
from tests.waiting import wait_until

PACED = "import time\nprint('the script runs', flush=True)\nwhile True:\n    nrp.run_loop()\n    time.sleep(0.01)\n"

FORK_BOMB = """
import os, time
print("the script runs", flush=True)
for _ in range(10):  # 1024 processes at most: an unbounded bomb takes the machine that runs the tests, whatever ends it
    try:
        os.fork()
    except OSError:
        pass
time.sleep(30)  # should nobody else end it
"""

BOMB_OF_SESSIONS = FORK_BOMB.replace("os.fork()", "os.fork() or os.setsid()")

MANY_SLEEPERS = """
import subprocess
print("the script runs", flush=True)
sleepers = [subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(40)]
sleepers[0].wait()
"""

MEMORY_HOG = """
import time
print("the script runs", flush=True)
held = []
end = time.monotonic() + 60
while time.monotonic() < end:
    held.append(b"x" * 10_000_000)
    time.sleep(0.02)
"""

FAMILY_OF_HOGS = """
import multiprocessing, time
print("the script runs", flush=True)

def hold():
    held = b"x" * 100_000_000
    time.sleep(60)

family = [multiprocessing.get_context("fork").Process(target=hold) for _ in range(4)]
for each in family:
    each.start()
family[0].join()
"""

SHARING = """
import os, time
held = b"x" * 150_000_000
for _ in range(4):
    if os.fork() == 0:
        time.sleep(600)
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""

BURNER = """
print("the script runs", flush=True)
while True:
    pass
"""

FAMILY_OF_BURNERS = """
import subprocess, sys
print("the script runs", flush=True)
burn = "import time\\nend = time.process_time() + 0.3\\nwhile time.process_time() < end: pass"
while True:
    subprocess.run([sys.executable, "-c", burn])
"""

DISK_FILLER = """
import time
print("the script runs", flush=True)
end = time.monotonic() + 60
number = 0
while time.monotonic() < end:
    with open(f"filler_{number}", "wb") as file:
        file.write(b"x" * 1_000_000)
    number += 1
    time.sleep(0.01)
"""

RANDOM_DISK_FILLER = DISK_FILLER.replace("import time", "import os, time").replace(
    'b"x" * 1_000_000', "os.urandom(1_000_000)"
)

ONE_LARGE_FILE = """
print("the script runs", flush=True)
with open("large", "wb") as file:
    for _ in range(1000):
        file.write(b"x" * 1_000_000)
"""

SPARSE = """
import time
with open("sparse", "wb") as file:
    file.truncate(20_000_000)
while True:
    nrp.run_loop()
    time.sleep(0.01)
"""


@pytest.fixture
def neighbour(launcher: RunningLauncher) -> Iterator[Launched]:
    """A simulation that steps before and after whatever happens to another one."""
    neighbour = launcher.started(PACED)
    neighbour.await_steps()
    yield neighbour
    neighbour.await_steps()
    assert neighbour.finals == []
    neighbour.command("stopped")
    assert neighbour.await_final()["event"] == "stopped"
    neighbour.assert_nothing_is_left()


def assert_failed_for(simulation: Launched, words: str, *, timeout: float = 40.0) -> None:
    """It failed in these words, a regular expression; its logs are stored, and nothing of it is left."""
    final = simulation.await_final(timeout)
    assert final["event"] == "failed"
    assert re.fullmatch(words, final["reason"]), final["reason"]
    assert final["reason"] in [error["msg"] for error in simulation.errors]
    assert simulation.await_final_status()["error"] == final["reason"]
    assert "the script runs" in simulation.log_in(final["logs"])
    simulation.assert_nothing_is_left(30)


# -- one test a limit ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bomb", [FORK_BOMB, BOMB_OF_SESSIONS, MANY_SLEEPERS], ids=["bomb", "sessions", "sleepers"])
@pytest.mark.usefixtures("neighbour")
def test_more_processes_than_allowed(launcher: RunningLauncher, bomb: str) -> None:
    simulation = launcher.started(bomb, limits={"processes": 20})
    words = r"The simulation had (\d+) processes at once, 20 are allowed \(limit processes of its launch\)"
    assert_failed_for(simulation, words)


@pytest.mark.parametrize("hog", [MEMORY_HOG, FAMILY_OF_HOGS], ids=["one", "several"])
@pytest.mark.usefixtures("neighbour")
def test_more_memory_than_allowed(launcher: RunningLauncher, hog: str) -> None:
    simulation = launcher.started(hog, limits={"memoryMB": 300})
    words = r"The simulation used (\d+|over 300) MB of memory, 300 MB are allowed \(limit memoryMB of its launch\)"
    assert_failed_for(simulation, words)


def test_memory_that_processes_share_counts_once(launcher: RunningLauncher) -> None:
    simulation = launcher.started(SHARING, limits={"memoryMB": 300})
    wait_until(lambda: len(simulation.processes()) == 5)
    seen = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) > seen + 25)  # more than two looks of the launcher
    assert simulation.finals == []
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"


@pytest.mark.parametrize("burner", [BURNER, FAMILY_OF_BURNERS], ids=["one", "several that end"])
@pytest.mark.usefixtures("neighbour")
def test_more_cpu_time_than_allowed(launcher: RunningLauncher, burner: str) -> None:
    simulation = launcher.started(burner, limits={"cpuTime": 2})
    words = r"The simulation took ([\d.]+) s of CPU time, 2 s are allowed \(limit cpuTime of its launch\)"
    assert_failed_for(simulation, words, timeout=60)


@pytest.mark.usefixtures("neighbour")
def test_more_disk_than_allowed(launcher: RunningLauncher) -> None:
    simulation = launcher.started(DISK_FILLER, limits={"diskMB": 30})
    words = r"The simulation took (\d+) MB of disk, 30 MB are allowed \(limit diskMB of its launch\)"
    assert_failed_for(simulation, words)


def test_one_file_cannot_become_larger_than_the_disk_that_is_allowed(launcher: RunningLauncher) -> None:
    simulation = launcher.started(ONE_LARGE_FILE, limits={"diskMB": 30})
    words = r"The simulation took (\d+) MB of disk, 30 MB are allowed \(limit diskMB of its launch\)(; .*)?"
    assert_failed_for(simulation, words)
    results = simulation.stored(simulation.finals[-1]["results"])
    assert len(results["large"]) <= 31_000_000


def test_holes_in_files_take_no_disk(launcher: RunningLauncher) -> None:
    simulation = launcher.started(SPARSE, limits={"diskMB": 21})
    wait_until(lambda: (simulation.folder / "experiment/sparse").exists())
    seen = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) > seen + 25)
    assert simulation.finals == []
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"


@pytest.mark.usefixtures("neighbour")
def test_longer_started_than_allowed(launcher: RunningLauncher) -> None:
    simulation = launcher.started(PACED, limits={"realTime": 1.5})
    words = r"The simulation was started for ([\d.]+) s, 1.5 s are allowed \(limit realTime of its launch\)"
    assert_failed_for(simulation, words)


def test_paused_simulation_spends_no_real_time(launcher: RunningLauncher) -> None:
    simulation = launcher.paused(PACED, limits={"realTime": 0.5})
    seen = len(simulation.statuses)
    wait_until(lambda: len(simulation.statuses) > seen + 25)
    assert simulation.finals == []
    simulation.command("stopped")
    assert simulation.await_final()["event"] == "stopped"


def test_real_time_before_a_reset_counts(launcher: RunningLauncher) -> None:
    simulation = launcher.started(PACED, limits={"realTime": 6})
    wait_until(lambda: simulation.statuses[-1]["realTime"] > 3)
    assert simulation.command("reset").error is None
    assert simulation.command("started").error is None
    assert "limit realTime of its launch" in simulation.await_final()["reason"]
    assert simulation.await_final_status()["realTime"] < 6


@pytest.mark.usefixtures("neighbour")
def test_more_simulated_time_than_allowed(launcher: RunningLauncher) -> None:
    simulation = launcher.started(PACED, limits={"simulatedTime": 0.5})
    words = (
        r"The simulation reached ([\d.]+) s of simulated time, 0.5 s are allowed \(limit simulatedTime of its launch\)"
    )
    assert_failed_for(simulation, words)


def test_simulation_that_exceeds_a_time_ends_in_order(launcher: RunningLauncher) -> None:
    script = f"import atexit\natexit.register(print, 'goodbye', flush=True)\n{PACED}"
    simulation = launcher.started(script, limits={"simulatedTime": 0.2})
    final = simulation.await_final()
    assert (final["event"], "goodbye" in simulation.log_in(final["logs"])) == ("failed", True)


# -- the launcher's own limits ---------------------------------------------------------------------------------------


def test_fork_bomb_cannot_take_the_machine_by_default(launcher: RunningLauncher, neighbour: Launched) -> None:
    simulation = launcher.started(FORK_BOMB)
    words = r"The simulation had (\d+) processes at once, 256 are allowed \(limit NRP_LIMIT_PROCESSES\)"
    assert_failed_for(simulation, words)
    neighbour.await_steps()


def test_fork_bomb_is_ended_where_the_kernel_keeps_no_limits(launchers: Launchers) -> None:
    launcher = launchers.running(cgroup="none")
    neighbour = launcher.started(PACED)
    for bomb in (FORK_BOMB, BOMB_OF_SESSIONS):
        simulation = launcher.started(bomb, limits={"processes": 20})
        words = r"The simulation had (\d+) processes at once, 20 are allowed \(limit processes of its launch\)"
        assert_failed_for(simulation, words)
        neighbour.await_steps()


@pytest.fixture(scope="module")
def strict_launcher(
    broker: BrokerAddress, storage: StorageServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningLauncher]:
    """A launcher that allows little."""
    launcher = RunningLauncher(
        broker,
        storage,
        tmp_path_factory.mktemp("launcher"),
        limit_processes=10,
        limit_simulated_time_s=0.3,
        limit_real_time_s=30,
        idle_timeout_s=2,
    )
    launcher.start()
    launcher.await_ready()
    yield launcher
    launcher.close()


def test_launch_can_only_ask_for_stricter_limits(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.started(PACED, limits={"simulatedTime": 1000, "realTime": 0.1})
    assert "limit realTime of its launch" in simulation.await_final()["reason"] or (
        "limit NRP_LIMIT_SIMULATED_TIME_S" in simulation.await_final()["reason"]
    )
    simulation = strict_launcher.started(PACED, limits={"simulatedTime": 1000})
    assert "0.3 s are allowed (limit NRP_LIMIT_SIMULATED_TIME_S)" in simulation.await_final()["reason"]


def test_no_simulation_is_taken_while_too_little_disk_is_free(launchers: Launchers) -> None:
    free_mb = psutil.disk_usage(str(launchers.folder)).free // 1_000_000
    launcher = launchers.running(limit_free_disk_mb=free_mb + 100_000)
    refused = launcher.ask_launch(1_000_002, launcher.experiment(PACED))
    assert refused.refusal is Refusal.FULL
    assert re.fullmatch(
        r"only \d+ MB of its disk are free, \d+ are kept \(NRP_LIMIT_FREE_DISK_MB\)", str(refused.error)
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 100 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "none", disk], check=False).returncode != 0:
        pytest.skip("no disk can be mounted here")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_full_disk_is_freed_of_who_filled_it(small_disk: Path, broker: BrokerAddress, storage: StorageServer) -> None:
    launcher = RunningLauncher(broker, storage, small_disk / "launcher", limit_free_disk_mb=50)
    try:
        launcher.start()
        launcher.await_ready()
        neighbour = launcher.started(PACED)
        simulation = launcher.started(RANDOM_DISK_FILLER)
        words = (
            r"The disk is full: \d+ MB are free, 50 are kept \(limit NRP_LIMIT_FREE_DISK_MB\), and of all simulations "
            r"this one wrote most, \d+ MB(; .*)?"
        )
        assert_failed_for(simulation, words)
        assert simulation.finals[-1]["results"] is None
        assert "are not kept: the disk has no room for them" in simulation.log_in(simulation.finals[-1]["logs"])
        neighbour.await_steps()
        launcher.paused(PACED)
    finally:
        launcher.close()


@pytest.fixture
def tree() -> cgroups.CgroupTree:
    """Where launchers make cgroups here."""
    try:
        return cgroups.claim("auto")
    except cgroups.NoCgroups as reason:
        pytest.skip(f"no cgroups here: {reason}")


def test_idle_servers_are_in_their_cgroups_already(launchers: Launchers, tree: cgroups.CgroupTree) -> None:
    before = set(tree.base.iterdir())
    launcher = launchers.running(idle_servers=2)

    def made() -> set[Path]:
        return {each for each in set(tree.base.iterdir()) - before if each.is_dir()}

    wait_until(lambda: len(made()) == 2 and all((each / "cgroup.procs").read_text() for each in made()))
    idle = made()
    simulation = launcher.paused(PACED)
    assert tree.of(simulation.incarnation).path in idle
    assert tree.of(simulation.incarnation).processes() == 1
    launcher.end()
    wait_until(lambda: not made())


def test_cgroups_of_a_spawner_that_was_killed_are_removed(launchers: Launchers, tree: cgroups.CgroupTree) -> None:
    before = set(tree.base.iterdir())
    launcher = launchers.running(idle_servers=1)
    wait_until(lambda: set(tree.base.iterdir()) - before)
    os.kill(launcher.spawner, signal.SIGKILL)
    launcher.kill()
    launcher.restart()
    launcher.end()
    wait_until(lambda: set(tree.base.iterdir()) == before)


def test_cgroup_ends_with_its_simulation_whoever_dies(launchers: Launchers, tree: cgroups.CgroupTree) -> None:
    launcher = launchers.running()
    simulation, other = launcher.started(PACED), launcher.started(PACED)
    cgroup = tree.of(simulation.incarnation)
    wait_until(lambda: cgroup.processes() >= 1)
    os.kill(simulation.server, signal.SIGKILL)
    simulation.await_final()
    wait_until(lambda: not cgroup.path.exists())
    launcher.kill()
    launcher.restart()
    with suppress(CommandTimeout):  # it may have ended with the launcher
        other.command("stopped")
    other.await_final()
    wait_until(lambda: not tree.of(other.incarnation).path.exists())


def test_kernel_would_end_simulations_before_services(launcher: RunningLauncher) -> None:
    simulation = launcher.paused(PACED)

    def adjustment(pid: int) -> int:
        return int(Path(f"/proc/{pid}/oom_score_adj").read_text())

    assert adjustment(simulation.server) == 500
    assert adjustment(launcher.process.pid) < 500
    simulation.command("stopped")
    simulation.await_final()


# -- idle simulations ------------------------------------------------------------------------------------------------


def progress(simulation: Launched) -> list[dict[str, Any]]:
    """What was said of its idleness."""
    seen = [seen.json for seen in simulation.launcher.wire.on(simulation.topics.status(simulation.id)) if seen.payload]
    return [each["progress"] for each in seen if each.get("progress", {}).get("task") == "Idle"]


@pytest.mark.alone
def test_idle_simulation_is_warned_and_then_stopped_with_its_logs_stored(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.paused("print('never')")
    final = simulation.await_final()
    assert (final["event"], final["reason"]) == (
        "stopped",
        "The simulation was paused for 2 s without any command (limit NRP_IDLE_TIMEOUT_S)",
    )
    assert simulation.log_in(final["logs"])
    warning = progress(simulation)[0]
    assert (warning["block_ui"], re.fullmatch(r"It is stopped in 1 s, unless .*", warning["subtask"]) is not None) == (
        False,
        True,
    )
    simulation.assert_nothing_is_left()


@pytest.mark.alone
def test_completed_simulation_is_idle_too(strict_launcher: RunningLauncher) -> None:
    simulation = strict_launcher.started("print('at once')")
    final = simulation.await_final()
    assert (final["event"], "was completed for 2 s" in final["reason"]) == ("stopped", True)


def test_any_command_gives_an_idle_simulation_its_time_anew(launchers: Launchers) -> None:
    simulation = launchers.running(idle_timeout_s=8).paused(PACED)
    wait_until(lambda: progress(simulation))
    stops_at = progress(simulation)[0]["stopsAt"]
    simulation.command("paused")  # which changes nothing else
    wait_until(lambda: progress(simulation)[-1].get("done"))
    wait_until(lambda: time.time() > stops_at + 1)
    assert simulation.finals == []
    simulation.command("stopped")
    assert simulation.await_final()["reason"] is None


@pytest.mark.alone
def test_started_simulation_is_never_idle(launchers: Launchers) -> None:
    launcher = launchers.running(idle_timeout_s=1)
    simulation = launcher.started(PACED)
    wait_until(lambda: simulation.statuses[-1]["realTime"] > 3)
    assert simulation.finals == []
    assert progress(simulation) == []
