"""A launch and a stop on the launcher's own machine and through clusters, in turn: `python -m benchmarks.placements`.

Slurm is a real controller with three nodes, all on this machine, so the figures are what it adds, with no network
between its parts and nobody else who waits. Kubernetes is the tests' own, whose containers are plain processes: the
figures are what Jobs cost without what a real node does to begin with a container.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import yaml

from benchmarks.figures import Figure, milliseconds, table
from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.manifests import MANIFESTS
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
        for name in ("slurm", "local", "kubernetes"):
            (folder / name).mkdir()
        cluster = SlurmCluster(folder / "slurm")
        os.environ |= cluster.variables
        running.callback(cluster.close)
        cluster.start()
        labs = {}
        settings = {"local": {}, "slurm": {}, "kubernetes": running.enter_context(_kubernetes(folder / "kubernetes"))}
        for placement, own in settings.items():
            lab = Lab(
                folder / placement / "lab", capacity=MANY, proxied=False, settings={"placement": placement, **own}
            )
            running.callback(lab.close)
            lab.start()
            labs[placement] = lab
        print(table([*_one_by_one(labs, repeats), *_at_once(labs)]))


@contextmanager
def _kubernetes(folder: Path) -> Iterator[dict[str, object]]:
    """Run the tests' cluster. Gives the settings of a launcher that uses it and has its data below `folder`."""
    template = yaml.safe_load((MANIFESTS / "base" / "simulation-job.yaml").read_text())
    (container,) = template["spec"]["template"]["spec"]["containers"]
    container["image"] = "nrp-launcher:test"
    (folder / "job.yaml").write_text(yaml.safe_dump(template))
    rights = yaml.safe_load_all((MANIFESTS / "base" / "launcher-rights.yaml").read_text())
    rules = next(each["rules"] for each in rights if each["kind"] == "Role")
    cluster = Cluster({"nrp-simulations": folder}, folder)
    try:
        with KubernetesApi(cluster, rules, folder) as api:
            yield {
                "kubernetes_config": api.kubeconfig,
                "kubernetes_job": folder / "job.yaml",
                "kubernetes_volume": folder,
            }
    finally:
        cluster.close()


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
