"""What a simulation may use, and whether it uses more."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Limits
from nrp_simserver.resources import limits as limits_module
from nrp_simserver.resources.cgroups import CgroupTree
from nrp_simserver.resources.disk_use import DiskUse
from nrp_simserver.resources.limits import Excess, Limit, Limited, LimitWatch, limits_in_force
from nrp_simserver.resources.process_table import ProcessTable
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import Journal, SimulationFolder

INCARNATION = "0" * 32

MACHINE_IS_FULL = "The memory of the machine ran out, and the kernel ended the simulation"


def in_force(asked: dict[str, Any] | None = None, **settings: Any) -> dict[Limited, Limit]:
    return limits_in_force(LauncherSettings(**settings), Limits(**(asked or {})))


def watch(
    folder: SimulationFolder, limits: dict[Limited, Limit], *, keep_free_mb: int = 0, cgroups: CgroupTree | None = None
) -> LimitWatch:
    disk = DiskUse(folder.path.parent, keep_free_mb)
    return LimitWatch(limits, folder, INCARNATION, ProcessTable(), disk, cgroups)


# -- which ones are in force -----------------------------------------------------------------------------------------


def test_by_default_only_what_could_take_the_machine_is_limited() -> None:
    assert in_force() == {
        Limited.PROCESSES: Limit(256, "NRP_LIMIT_PROCESSES"),
        Limited.DISK: Limit(10_000, "NRP_LIMIT_DISK_MB"),
    }


def test_zero_sets_no_limit() -> None:
    assert in_force(limit_processes=0, limit_disk_mb=0) == {}


@pytest.mark.parametrize(
    ("setting", "asked", "expected"),
    [
        (100, None, Limit(100, "NRP_LIMIT_MEMORY_MB")),
        (100, 50, Limit(50, "memoryMB of its launch")),
        (100, 200, Limit(100, "NRP_LIMIT_MEMORY_MB")),
        (0, 200, Limit(200, "memoryMB of its launch")),
    ],
)
def test_launch_can_only_ask_for_stricter_ones(setting: int, asked: int | None, expected: Limit) -> None:
    assert in_force({"memory_mb": asked}, limit_memory_mb=setting)[Limited.MEMORY] == expected


def test_each_limit_can_be_set_and_asked_for() -> None:
    settings = {
        f"limit_{name}": 10 for name in ("real_time_s", "simulated_time_s", "memory_mb", "cpu_time_s", "processes")
    }
    by_settings = in_force(**settings, limit_disk_mb=10)
    by_launch = in_force(dict.fromkeys(Limits.model_fields, 5), **settings, limit_disk_mb=10)
    assert {each.name for each in by_settings.values()} == {
        "NRP_LIMIT_REAL_TIME_S", "NRP_LIMIT_SIMULATED_TIME_S", "NRP_LIMIT_MEMORY_MB", "NRP_LIMIT_CPU_TIME_S",
        "NRP_LIMIT_PROCESSES", "NRP_LIMIT_DISK_MB",
    }  # fmt: skip
    assert by_settings.keys() == by_launch.keys() == set(Limited)
    assert {each.most for each in by_launch.values()} == {5}


# -- time ------------------------------------------------------------------------------------------------------------


def test_real_time_is_that_of_the_journal_resets_included(folder: SimulationFolder) -> None:
    watched = watch(folder, in_force({"real_time": 60}))
    folder.write_journal(Journal(state=SimulationState.PAUSED, real_time=10, total_real_time=60))
    assert watched.excess(folder.read_journal(), None, None) is None
    folder.write_journal(Journal(state=SimulationState.PAUSED, real_time=11, total_real_time=61))
    assert watched.excess(folder.read_journal(), None, None) == Excess(
        Limited.REAL_TIME, "The simulation was started for 61.0 s, 60 s are allowed (limit realTime of its launch)"
    )


def test_real_time_goes_on_although_the_journal_is_not_written(
    folder: SimulationFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [time.monotonic()]
    monkeypatch.setattr(limits_module.time, "monotonic", lambda: now[0])
    watched = watch(folder, in_force({"real_time": 60}, limit_disk_mb=0))
    for state in (SimulationState.PAUSED, SimulationState.STARTED):
        folder.write_journal(Journal(state=state, total_real_time=50))
        assert watched.excess(folder.read_journal(), None, None) is None
        now[0] += 11
        assert (watched.excess(folder.read_journal(), None, None) is not None) == (state is SimulationState.STARTED)


def test_simulated_time_is_that_of_the_journal(folder: SimulationFolder) -> None:
    watched = watch(folder, in_force(limit_simulated_time_s=1.5))
    folder.write_journal(Journal(simulation_time=1.5))
    assert watched.excess(folder.read_journal(), None, None) is None
    folder.write_journal(Journal(simulation_time=1.51))
    assert watched.excess(folder.read_journal(), None, None) == Excess(
        Limited.SIMULATED_TIME,
        "The simulation reached 1.51 s of simulated time, 1.5 s are allowed (limit NRP_LIMIT_SIMULATED_TIME_S)",
    )


@pytest.mark.parametrize("what", list(Limited))
def test_only_who_took_too_much_time_may_end_in_order(what: Limited) -> None:
    assert Excess(what, "").may_wait == (what in (Limited.REAL_TIME, Limited.SIMULATED_TIME, Limited.CPU_TIME))


# -- disk ------------------------------------------------------------------------------------------------------------


def test_folder_may_become_as_large_as_allowed(folder: SimulationFolder) -> None:
    (folder.experiment / "data").write_bytes(b"x" * 3_000_000)
    assert watch(folder, in_force({"disk_mb": 4})).excess(folder.read_journal(), None, None) is None
    found = watch(folder, in_force({"disk_mb": 2})).excess_at_the_end()
    assert found == Excess(
        Limited.DISK, "The simulation took 4 MB of disk, 2 MB are allowed (limit diskMB of its launch)"
    )


def test_no_file_can_become_much_larger_than_the_disk_that_is_allowed(folder: SimulationFolder) -> None:
    assert watch(folder, in_force({"disk_mb": 30})).largest_file == 31_000_000
    assert watch(folder, in_force(limit_disk_mb=0)).largest_file is None


# -- processes -------------------------------------------------------------------------------------------------------


def test_user_may_have_more_processes_than_there_are(folder: SimulationFolder) -> None:
    most = watch(folder, in_force(limit_processes=100)).most_tasks_of_user
    assert most is not None
    assert most > 4096 + 100
    assert watch(folder, in_force(limit_processes=0)).most_tasks_of_user is None


def test_this_process_is_counted_and_weighed(folder: SimulationFolder) -> None:
    def reason(what: Limited, most: float) -> str:
        found = watch(folder, {what: Limit(most, "x")}).excess(Journal(), os.getpid(), None)
        return "" if found is None else found.reason

    assert "processes at once" in reason(Limited.PROCESSES, 0.5)
    assert "s of CPU time" in reason(Limited.CPU_TIME, 0.001)
    assert "MB of memory" in reason(Limited.MEMORY, 1)
    assert reason(Limited.MEMORY, 100_000) == ""


# -- cgroups ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def cgroup(tmp_path: Path) -> Path:
    """The simulation's, as the kernel shows it."""
    path = tmp_path / "cgroups" / f"nrp_simulation_{INCARNATION}"
    path.mkdir(parents=True)
    (path / "cgroup.procs").write_text("11\n12\n13\n")
    (path / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    (path / "memory.events").write_text("low 0\nhigh 0\nmax 7\noom 0\noom_kill 0\n")
    return path


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (in_force({"processes": 3}), None),
        (in_force({"processes": 2}), "The simulation had 3 processes at once, 2 are allowed (limit processes of its"),
        (in_force({"cpu_time": 2.5}), None),
        (in_force({"cpu_time": 2.4}), "The simulation took 2.5 s of CPU time, 2.4 s are allowed (limit cpuTime of its"),
    ],
)
def test_kernel_accounts_what_a_cgroup_uses(
    folder: SimulationFolder, cgroup: Path, limits: dict[Limited, Limit], reason: str | None
) -> None:
    watched = watch(folder, limits, cgroups=CgroupTree(cgroup.parent))
    found = watched.excess(Journal(), os.getpid(), None)
    assert (found.reason.removesuffix(" launch)") if found else None) == reason


@pytest.mark.parametrize(
    ("events", "limits", "reason"),
    [
        ("oom 0\noom_kill 0", {"memory_mb": 50}, None),
        (
            "oom 1\noom_kill 3",
            {"memory_mb": 50},
            "The simulation used over 50 MB of memory, 50 MB are allowed (limit memoryMB of its launch)",
        ),
        (
            "oom 0\noom_kill 1",
            {"memory_mb": 50},
            MACHINE_IS_FULL,
        ),
        ("oom 0\noom_kill 1", {}, MACHINE_IS_FULL),
    ],
)
def test_end_by_the_kernel_is_told_as_what_it_was(
    folder: SimulationFolder, cgroup: Path, events: str, limits: dict[str, Any], reason: str | None
) -> None:
    (cgroup / "memory.events").write_text(events)
    found = watch(folder, in_force(limits), cgroups=CgroupTree(cgroup.parent)).excess_at_the_end()
    assert (found.reason if found else None) == reason
