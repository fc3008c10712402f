"""How many simulations a machine takes at once."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from nrp_common.messages import Wishes

SIMULATIONS_PER_CORE: Final = 4
"""Most simulations of a laboratory wait: for their owner, or for an engine that computes elsewhere."""

MEMORY_PER_SIMULATION: Final = 512 * 1024**2
"""In bytes: a simulation server needs 12 MB, a brain or a physics scene in it some hundred."""

MEGABYTE: Final = 2**20

CGROUPS: Final = Path("/sys/fs/cgroup")

_MEMORY_FILES: Final = (
    (".", "memory.max", "memory.current", "inactive_file"),
    ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Of cgroups of version 2 and 1: the folder, the limit, what is used, and what of that are copies of files."""

LEAST_FREE_MEMORY: Final = 200 * MEGABYTE
"""In bytes. With less the kernel would soon end some process, perhaps of another simulation."""


@dataclass(frozen=True)
class Room:
    """What there is for the simulations of a launcher. Cores, memory and GPUs are None where others give them out.

    Attributes:
        places: how many simulations it takes at once.
        cores: how many cores they may ask for, together.
        memory_mb: how much memory of this machine they may ask for, together.
        gpus: how many GPUs they may ask for, together.
    """

    places: int
    cores: float | None
    memory_mb: int | None
    gpus: int | None = 0

    def refusal(self, asked: Wishes, running: Sequence[Wishes]) -> str | None:
        """Why there is no room for one more simulation, None when there is.

        Args:
            asked: by that simulation.
            running: what those that run have asked for.
        """
        if len(running) >= self.places:
            return f"{len(running)} simulations run, it takes {self.places}"
        free_cores, free_memory_mb, free_gpus = (
            self.free_cores(running),
            self.free_memory_mb(running),
            self.free_gpus(running),
        )
        if free_cores is not None and asked.cores > free_cores:
            return f"{free_cores:g} of its {self.cores:g} cores are free, {asked.cores:g} are asked for"
        if free_memory_mb is not None and asked.memory_mb > free_memory_mb:
            return f"{free_memory_mb} of its {self.memory_mb} MB of memory are free, {asked.memory_mb} are asked for"
        if free_gpus is not None and asked.gpus > free_gpus:
            return f"{free_gpus} of its {self.gpus} GPUs are free, {asked.gpus} are asked for"
        if self.memory_mb is not None and (really_free := free_memory()) < LEAST_FREE_MEMORY:
            return f"only {really_free // MEGABYTE} MB of its memory are free"
        return None

    def free_cores(self, running: Sequence[Wishes]) -> float | None:
        """The cores that no simulation has asked for."""
        return None if self.cores is None else max(0.0, self.cores - sum(each.cores for each in running))

    def free_gpus(self, running: Sequence[Wishes]) -> int | None:
        """The GPUs that no simulation has asked for."""
        return None if self.gpus is None else max(0, self.gpus - sum(each.gpus for each in running))

    def free_memory_mb(self, running: Sequence[Wishes]) -> int | None:
        """The memory that no simulation has asked for, or what is really free when that is less."""
        if self.memory_mb is None:
            return None
        kept = sum(each.memory_mb for each in running)
        return max(0, min(self.memory_mb - kept, free_memory() // MEGABYTE))


def free_memory(cgroups: Path = CGROUPS) -> int:
    """The memory in bytes that a new process could have now: the machine's, or what is left to a container."""
    left = int(psutil.virtual_memory().available)
    for folder, limit, usage, reclaimable in _MEMORY_FILES:
        with suppress(OSError, ValueError, KeyError):  # `max`: no limit
            counts = dict(line.split() for line in (cgroups / folder / "memory.stat").read_text().splitlines())
            used = int((cgroups / folder / usage).read_text()) - int(counts[reclaimable])
            left = min(left, max(0, int((cgroups / folder / limit).read_text()) - used))
    return left


def default_capacity(cores: float, memory: int) -> int:
    """How many simulations `cores` and `memory` bytes carry; at least one."""
    return max(1, min(int(cores * SIMULATIONS_PER_CORE), memory // MEMORY_PER_SIMULATION))


def available_cores(cgroups: Path = CGROUPS) -> float:
    """The cores that this process may use: its affinity, or a container's quota when that is less."""
    cores = float(len(os.sched_getaffinity(0)))
    quota = period = ""
    with suppress(OSError, ValueError):
        quota, period = (cgroups / "cpu.max").read_text().split()
    if not quota:
        with suppress(OSError):
            quota = (cgroups / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroups / "cpu/cpu.cfs_period_us").read_text()
    with suppress(ValueError, ZeroDivisionError):  # `max`, or nothing at all: no quota
        share = int(quota) / int(period)
        if share > 0:  # -1 stands for none
            return min(cores, share)
    return cores


def available_memory(cgroups: Path = CGROUPS) -> int:
    """The memory in bytes that this process may use: the machine's, or a container's limit when that is less."""
    return min([psutil.virtual_memory().total, *_memory_limits(cgroups)])


def _memory_limits(cgroups: Path) -> Iterator[int]:
    for folder, limit, *_ in _MEMORY_FILES:
        with suppress(OSError, ValueError):  # `max`: no limit
            yield int((cgroups / folder / limit).read_text())
