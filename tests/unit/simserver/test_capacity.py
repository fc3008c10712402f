"""How many simulations a machine or a container takes."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest

from nrp_common.messages import Wishes
from nrp_simserver.resources import capacity
from nrp_simserver.resources.capacity import Room, available_cores, available_memory, default_capacity, free_memory

GB = 1024**3


@pytest.mark.parametrize(
    ("cores", "memory", "capacity"),
    [(2, 16 * GB, 8), (2, 2 * GB, 4), (0.5, 16 * GB, 2), (0.1, 16 * GB, 1), (64, GB // 4, 1)],
)
def test_capacity_is_what_the_scarcer_of_cores_and_memory_carries(cores: float, memory: int, capacity: int) -> None:
    assert default_capacity(cores, memory) == capacity


def test_without_a_container_it_is_the_whole_machine(tmp_path: Path) -> None:
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))
    assert available_memory(tmp_path) == psutil.virtual_memory().total


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
    ],
)
def test_quota_of_a_container_counts(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    put(tmp_path, files)
    assert available_cores(tmp_path) == cores


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "max 100000\n"},
        {"cpu.max": "100000000 100000\n"},
        {"cpu.max": "nonsense"},
        {"cpu.max": "50000 0"},
        {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
    ],
)
def test_quota_that_is_none_does_not_count(tmp_path: Path, files: dict[str, str]) -> None:
    put(tmp_path, files)
    assert available_cores(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("name", ["memory.max", "memory/memory.limit_in_bytes"])
def test_memory_limit_of_a_container_counts(tmp_path: Path, name: str) -> None:
    put(tmp_path, {name: "1048576\n"})
    assert available_memory(tmp_path) == 1048576


@pytest.mark.parametrize("limit", ["max\n", f"{2**62}\n"])
def test_memory_limit_that_is_none_does_not_count(tmp_path: Path, limit: str) -> None:
    put(tmp_path, {"memory.max": limit})
    assert available_memory(tmp_path) == psutil.virtual_memory().total


@pytest.mark.parametrize(
    "files",
    [
        {"memory.max": "1000000\n", "memory.current": "700000\n", "memory.stat": "anon 1\ninactive_file 100000\n"},
        {
            "memory/memory.limit_in_bytes": "1000000\n",
            "memory/memory.usage_in_bytes": "700000\n",
            "memory/memory.stat": "rss 1\ntotal_inactive_file 100000\n",
        },
    ],
)
def test_what_is_left_to_a_container_is_its_limit_without_what_is_used(tmp_path: Path, files: dict[str, str]) -> None:
    put(tmp_path, files)
    assert free_memory(tmp_path) == 400000


def test_a_container_that_uses_all_that_it_may_has_nothing_left(tmp_path: Path) -> None:
    put(tmp_path, {"memory.max": "1000\n", "memory.current": "2000\n", "memory.stat": "inactive_file 0\n"})
    assert free_memory(tmp_path) == 0


def test_without_a_limit_the_machines_memory_is_left(tmp_path: Path) -> None:
    put(tmp_path, {"memory.max": "max\n", "memory.current": "2000\n", "memory.stat": "inactive_file 0\n"})
    assert free_memory(tmp_path) > 2**20


def put(cgroups: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (cgroups / name).parent.mkdir(exist_ok=True)
        (cgroups / name).write_text(content)


NOTHING = Wishes()


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> None:
    """8 GB are free."""
    monkeypatch.setattr(capacity, "free_memory", lambda: 8 * GB)


@pytest.mark.usefixtures("free")
@pytest.mark.parametrize(
    ("asked", "running", "refusal"),
    [
        (NOTHING, [NOTHING] * 2, None),
        (NOTHING, [NOTHING] * 3, "3 simulations run, it takes 3"),
        (Wishes(cores=2), [NOTHING], None),
        (Wishes(cores=2), [Wishes(cores=0.5)], "1.5 of its 2 cores are free, 2 are asked for"),
        (Wishes(memory_mb=4000), [], None),
        (
            Wishes(memory_mb=3000),
            [Wishes(memory_mb=1500)],
            "2500 of its 4000 MB of memory are free, 3000 are asked for",
        ),
        (Wishes(gpus=1), [], "0 of its 0 GPUs are free, 1 are asked for"),
    ],
)
def test_room_counts_simulations_cores_and_memory(asked: Wishes, running: list[Wishes], refusal: str | None) -> None:
    assert Room(places=3, cores=2.0, memory_mb=4000).refusal(asked, running) == refusal


@pytest.mark.usefixtures("free")
def test_what_a_cluster_gives_out_is_not_counted() -> None:
    room = Room(places=3, cores=None, memory_mb=None, gpus=None)
    assert room.refusal(Wishes(cores=1000, memory_mb=10**6, gpus=8), [NOTHING] * 2) is None
    assert room.refusal(NOTHING, [NOTHING] * 3) == "3 simulations run, it takes 3"
    assert (room.free_cores([]), room.free_memory_mb([]), room.free_gpus([])) == (None, None, None)


def test_there_is_no_room_where_memory_is_really_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_memory", lambda: 100 * 2**20)
    room = Room(places=3, cores=2.0, memory_mb=4000)
    assert room.refusal(NOTHING, []) == "only 100 MB of its memory are free"
    assert room.free_memory_mb([]) == 100
