"""Hundreds of simulations at once: `python -m benchmarks.large_fleet [--size 300] [--running 50] [--hold 300]`.

One gateway, one launcher and a Mosquitto, all on this machine. Some of the simulations run a loop in real time, the
rest is paused; all tell their status once a second. Then each part is killed, and how long it takes until everything is
right again is measured.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import requests

from benchmarks.figures import Figure, milliseconds, table
from tests.lab import Lab
from tests.waiting import wait_until

BRACKETS = (50, 100, 200, 300)
COMMANDS = 40


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_fleet", description=__doc__)
    parser.add_argument("--size", type=int, default=300)
    parser.add_argument("--running", type=int, default=50)
    parser.add_argument("--hold", type=float, default=300.0, help="seconds")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nrp_fleet_") as scratch:
        settings: dict[str, object] = {"status_interval_s": 1.0}
        lab = Lab(Path(scratch), capacity=arguments.size, proxied=False, settings=settings)
        try:
            lab.start()
            print(table(_measure(lab, arguments.size, arguments.running, arguments.hold)))
        finally:
            lab.close()


def _measure(lab: Lab, size: int, running: int, hold_s: float) -> list[Figure]:
    figures, ids = _grow(lab, size, running)
    figures += _hold(lab, size, hold_s)
    figures += _command(lab, ids[:running])
    figures += _kill_each_part(lab, ids, running)
    return figures


def _grow(lab: Lab, size: int, running: int) -> tuple[list[Figure], list[int]]:
    experiment = lab.experiment()
    empty = _memory(lab)
    ids: list[int] = []
    figures = []
    launches: list[float] = []
    for number in range(1, size + 1):
        began = time.perf_counter()
        answer = lab.client.launch(experiment)
        launches.append(time.perf_counter() - began)
        assert answer.state == "paused", answer
        assert answer.simulation_id is not None
        ids.append(answer.simulation_id)
        if len(ids) <= running:
            assert lab.client.ask(ids[-1], "started").state == "started"
        if number in BRACKETS or number == size:
            what = f"launch while the fleet grows to {number}, {min(number, running)} of them running"
            figures.append(Figure(what, milliseconds(launches)))
            launches = []
    added = (_memory(lab) - empty) / size
    figures.append(
        Figure(f"memory a simulation adds, {size} at once (PSS)", f"{added / 2**20:.1f} MB", "26 MB", "12 MB")
    )
    return figures, ids


def _hold(lab: Lab, size: int, seconds: float) -> list[Figure]:
    before, seen = _cpu(lab), len(lab.wire.seen)
    began = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - began
    after, messages = _cpu(lab), len(lab.wire.seen) - seen
    figures = [Figure(f"messages on the bus, {size} at once", f"{messages / took:,.0f} a second")]
    for part, used in after.items():
        target = "20 % of a core" if part == "gateway" else ""
        share = f"{100 * (used - before[part]) / took:.1f} % of a core"
        figures.append(Figure(f"processor time of the {part}, {size} at once, held {seconds:g} s", share, "", target))
    return figures


def _command(lab: Lab, running: list[int]) -> list[Figure]:
    times = []
    for simulation_id in running[:COMMANDS]:
        for state in ("paused", "started"):
            began = time.perf_counter()
            assert lab.client.ask(simulation_id, state).state == state
            times.append(time.perf_counter() - began)
    return [Figure("PUT paused or started at that load", milliseconds(times), "", "200 ms")]


def _kill_each_part(lab: Lab, ids: list[int], running: int) -> list[Figure]:
    """Kill gateway, broker and launcher, one after the other; each is started again at once."""
    right = ["started"] * running + ["paused"] * (len(ids) - running)

    def all_is_right() -> bool:
        states = lab.states()
        counted = lab.presence_of(launcher).get("running") == len(ids)
        return [states.get(each) for each in ids] == right and counted and _is_ready(lab)

    gateway, launcher = lab.gateways[0], lab.launchers[0]
    parts: list[tuple[str, Callable[[], None], Callable[[], None]]] = [
        ("gateway", gateway.kill, gateway.start),
        ("broker", lab.broker.stop, lab.broker.start),
        ("launcher", launcher.kill, launcher.start),
    ]
    figures = []
    for name, kill, start in parts:
        kill()
        start()
        began = time.perf_counter()
        wait_until(all_is_right, 120)
        took = time.perf_counter() - began
        figures.append(Figure(f"{name} killed and started again: until all is right", f"{took:.1f} s"))
    return figures


def _is_ready(lab: Lab) -> bool:
    try:
        return requests.get(f"{lab.client.url}/ready", timeout=5).ok
    except requests.RequestException:
        return False


# -- what the machine says -------------------------------------------------------------------------------------------


def _parts(lab: Lab) -> dict[str, list[psutil.Process]]:
    """The processes of each part."""
    gateway, launcher = (psutil.Process(service.process.pid) for service in lab.services if service.process is not None)
    spawners = [each for each in psutil.process_iter() if _is_spawner(each, lab)]
    return {
        "gateway": [gateway, *gateway.children(recursive=True)],
        "launcher": [launcher],
        "broker": [psutil.Process(lab.broker.pid)],
        "spawner": spawners,
        "simulations": [child for spawner in spawners for child in spawner.children(recursive=True)],
    }


def _is_spawner(process: psutil.Process, lab: Lab) -> bool:
    try:
        words = " ".join(process.cmdline())
        launcher = lab.launchers[0].process
        is_own = str(lab.launchers[0].log.parent) in words or (launcher is not None and process.ppid() == launcher.pid)
        if "nrp_simserver.placement.local.spawner" not in words or not is_own:
            return False
        parent = process.parent()  # its simulation servers look like it
        return parent is None or "nrp_simserver.placement.local.spawner" not in " ".join(parent.cmdline())
    except psutil.Error:
        return False


def _cpu(lab: Lab) -> dict[str, float]:
    """Processor seconds of each part so far."""
    return {part: sum(map(_seconds, processes)) for part, processes in _parts(lab).items()}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _memory(lab: Lab) -> int:
    """Proportional set size of spawner and simulations, in bytes."""
    parts = _parts(lab)
    return sum(process.memory_full_info().pss for part in ("spawner", "simulations") for process in parts[part])


if __name__ == "__main__":
    main()
