"""A launch and a stop on the launcher's own machine and through Slurm, in turn: `python -m benchmarks.placements`.

The cluster is a real controller with three nodes, all on this machine, so the figures are what Slurm adds, with no
network between its parts and nobody else who waits.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, milliseconds, table
from tests.lab import Lab
from tests.slurm_cluster import SlurmCluster, why_not
from tests.waiting import wait_until

MANY = 30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.placements", description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    repeats = parser.parse_args().repeats
    if (reason := why_not()) is not None:
        parser.error(f"no Slurm cluster can be had: {reason}")
    with tempfile.TemporaryDirectory(prefix="nrp_placements_") as scratch, ExitStack() as running:
        folder = Path(scratch)
        for name in ("slurm", "local"):
            (folder / name).mkdir()
        cluster = SlurmCluster(folder / "slurm")
        os.environ |= cluster.variables
        running.callback(cluster.close)
        cluster.start()
        labs = {}
        for placement in ("local", "slurm"):
            lab = Lab(folder / placement / "lab", capacity=MANY, proxied=False, settings={"placement": placement})
            running.callback(lab.close)
            lab.start()
            labs[placement] = lab
        print(table([*_one_by_one(labs, repeats), *_at_once(labs)]))


def _one_by_one(labs: dict[str, Lab], repeats: int) -> list[Figure]:
    launches: dict[str, list[float]] = {placement: [] for placement in labs}
    stops: dict[str, list[float]] = {placement: [] for placement in labs}
    experiments = {placement: lab.experiment() for placement, lab in labs.items()}
    for _ in range(repeats):
        for placement, lab in labs.items():
            began = time.perf_counter()
            answer = lab.client.launch(experiments[placement])
            launches[placement].append(time.perf_counter() - began)
            assert answer.state == "paused", answer
            assert answer.simulation_id is not None
            lab.client.ask(answer.simulation_id, "started")
            lab.await_steps([answer.simulation_id])
            began = time.perf_counter()
            assert lab.client.ask(answer.simulation_id, "stopped").state == "stopped"
            stops[placement].append(time.perf_counter() - began)
    return [
        *(Figure(f"launch until answered `paused` ({name})", milliseconds(times)) for name, times in launches.items()),
        *(Figure(f"stop until answered, logs stored ({name})", milliseconds(times)) for name, times in stops.items()),
    ]


def _at_once(labs: dict[str, Lab]) -> list[Figure]:
    figures = []
    for placement, lab in labs.items():
        experiment = lab.experiment()
        began = time.perf_counter()
        with ThreadPoolExecutor(MANY) as askers:
            answers = list(askers.map(lab.client.launch, [experiment] * MANY))
            ids = [each.simulation_id for each in answers if each.simulation_id is not None]
            wait_until(lambda ids=ids, lab=lab: all(lab.states()[each] == "paused" for each in ids), 60)  # type: ignore[misc]
            took_s = time.perf_counter() - began
            figures.append(
                Figure(f"{len(ids)} launches at once until all are `paused` ({placement})", f"{took_s:.1f} s")
            )
            list(askers.map(lab.client.ask, ids, ["stopped"] * len(ids)))
    return figures


if __name__ == "__main__":
    main()
