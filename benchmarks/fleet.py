"""Many simulations at once: how long they take to launch, what they weigh, how quickly they still obey."""

from __future__ import annotations

import time

import psutil

from benchmarks.figures import Figure, milliseconds
from benchmarks.stack_under_test import PACED_SCRIPT, Witness
from nrp_cli.rest_client import RestClient

SETTLED_WITHIN_S = 5.0


def measure_fleet(client: RestClient, witness: Witness, size: int) -> list[Figure]:
    """Launch `size` simulations, run them all in real time, command each, stop each."""
    before = _memory_of_children()
    processes = _number_of_children()
    launches, starts, pauses, stops = [], [], [], []
    fleet = []
    for _ in range(size):
        began = time.perf_counter()
        simulation_id = client.launch("endless", main_script=PACED_SCRIPT)["simulationID"]
        launches.append(witness.when(simulation_id, "paused") - began)
        fleet.append(simulation_id)
    _await_children(processes + size)  # idle servers take the places of those that are in use now
    added = (_memory_of_children() - before) / size
    for times, state in ((starts, "started"), (pauses, "paused"), (stops, "stopped")):
        for simulation_id in fleet:
            began = time.perf_counter()
            assert client.set_state(simulation_id, state) == state
            times.append(time.perf_counter() - began)
    at_once = f"{size} at once"
    return [
        Figure(f"{at_once}: launch until `paused`, one after the other", milliseconds(launches), "1 only"),
        Figure(f"{at_once}: PUT started", milliseconds(starts)),
        Figure(f"{at_once}: PUT paused, all running in real time", milliseconds(pauses)),
        Figure(f"{at_once}: PUT stopped, logs stored", milliseconds(stops)),
        Figure(f"{at_once}: memory a simulation adds (PSS)", f"{added / 2**20:.1f} MB", "26 MB", "12 MB"),
    ]


def _memory_of_children() -> int:
    """The proportional set size of all processes of the stack, in bytes."""
    total = 0
    for child in psutil.Process().children(recursive=True):
        try:
            total += child.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
    return total


def _number_of_children() -> int:
    return len(psutil.Process().children(recursive=True))


def _await_children(number: int) -> None:
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while _number_of_children() < number and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(SETTLED_WITHIN_S / 10)
