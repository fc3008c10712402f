"""The simulators: which ones can be used here, and which extra installs those that cannot."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

from nrp_cli.doctor.findings import Finding
from nrp_simserver.cores.embedded.simulators import ADAPTERS
from nrp_simserver.cores.nrpcoresim.program import find_program

IMPORT_S: Final = 60.0
"""How long an import may take: on a busy machine that of a large simulator takes seconds."""

PROBE: Final = """
import importlib, importlib.metadata, importlib.util, sys
module, distribution = sys.argv[1:]
if importlib.util.find_spec(module) is None:
    sys.exit(3)
importlib.import_module(module)
try:
    print("version", importlib.metadata.version(distribution))
except importlib.metadata.PackageNotFoundError:
    print("version", getattr(sys.modules[module], "__version__", "unknown"))
"""
"""In an interpreter of its own: what a broken simulator does to it ends with it."""

NOT_INSTALLED: Final = 3


class Simulator(NamedTuple):
    """An importable module, its distribution, our extra."""

    module: str
    distribution: str
    extra: str


SIMULATORS: Final = [
    *(Simulator(each.needs, each.distribution, each.extra) for each in ADAPTERS.values()),
    Simulator("nest", "nest-simulator", "nest"),
]


def examine_simulators() -> Iterator[Finding]:
    """All that engines drive."""
    python = os.environ.get("NRP_PYTHON") or sys.executable
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(lambda simulator: _examine(simulator, python), SIMULATORS)
    yield from _rendering()
    yield _original()


def _examine(simulator: Simulator, python: str) -> Finding:
    command = [python, "-P", "-c", PROBE, simulator.module, simulator.distribution]
    try:
        probed = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=IMPORT_S, check=False
        )
    except OSError as error:
        return Finding.problem(
            simulator.distribution, f"{python} cannot be run: {error.strerror}", "Correct NRP_PYTHON."
        )
    except subprocess.TimeoutExpired:
        return Finding.problem(
            simulator.distribution,
            f"It is not imported after {IMPORT_S:g} s",
            "See whether the disk or the network is slow.",
        )
    install = f"{python} -m pip install 'nrp-backend[{simulator.extra}]'"
    if probed.returncode == NOT_INSTALLED:
        return Finding.note(simulator.distribution, "not installed", f"Where experiments need it: {install}")
    versions = [line.split()[1] for line in probed.stdout.splitlines() if line.startswith("version ")]
    if probed.returncode or not versions:
        last = (probed.stderr.strip().splitlines() or [f"exit status {probed.returncode}"])[-1]
        return Finding.problem(
            simulator.distribution, f"It is installed and cannot be imported: {last}", f"Install it anew: {install}"
        )
    return Finding.ok(simulator.distribution, versions[-1])


def _rendering() -> Iterator[Finding]:
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY"):
        return
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        yield Finding.note(
            "camera images",
            "There is no display, and no EGL to render without one",
            "Where experiments have cameras: apt-get install libegl1 libopengl0 libgl1-mesa-dri",
        )


def _original() -> Finding:
    program = find_program(os.environ.get("NRP_NRPCORESIM") or "NRPCoreSim")
    if program is None:
        return Finding.note(
            "NRPCoreSim",
            "not installed",
            "Where experiments have engines of types that need it (Gazebo, Unity, EDLUT): install nrp-core, or name it"
            " by NRP_NRPCORESIM.",
        )
    return Finding.ok("NRPCoreSim", str(program))
