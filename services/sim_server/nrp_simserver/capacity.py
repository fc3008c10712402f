"""How many simulations a machine takes at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

import psutil

SIMULATIONS_PER_CORE: Final = 4
"""Most simulations of a laboratory wait: for their owner, or for an engine that computes elsewhere."""

MEMORY_PER_SIMULATION: Final = 512 * 1024**2
"""In bytes: a simulation server needs 12 MB, a brain or a physics scene in it some hundred."""

CGROUPS: Final = Path("/sys/fs/cgroup")


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
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):  # `max`: no limit
            yield int((cgroups / name).read_text())
