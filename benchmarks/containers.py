"""The compose file beside the same services as processes of `nrp up`: `python -m benchmarks.containers`.

Until everything is ready, and what a launch, a start and a stop take, in turns on both. Needs a Docker engine, or root
on Debian.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TypeVar

from benchmarks.stack_under_test import EXPERIMENT, stack_under_test
from nrp_cli.rest_client import RestClient
from tests.deploy.containers import debian_images
from tests.deploy.containers.engine import Engine, docker_engine
from tests.deploy.containers.images import build_all
from tests.deploy.containers.installation import Installation

REPEATS = 50

Value = TypeVar("Value")


def main() -> None:
    """Measure and print."""
    with docker_engine() as engine, tempfile.TemporaryDirectory() as folder:
        broker = debian_images.make(debian_images.MOSQUITTO, "nrp-test/mosquitto", engine.command)
        images = {"NRP_MOSQUITTO_IMAGE": broker, **build_all(engine)}
        installation = Installation(engine, Path(folder), images)
        try:
            until_ready, _ = _timed(lambda: (installation.up(), installation.await_readiness()))
            _print_sizes(engine, images)
            print(f"`up` until a launch would be taken: {until_ready:.1f} s")
            with stack_under_test("mosquitto", capacity=8) as (local, *_), RestClient(installation.url) as contained:
                contained.import_experiment(EXPERIMENT, "endless")
                _print_commands(local, contained)
        finally:
            installation.down("--volumes", "--timeout", "5")


def _print_sizes(engine: Engine, images: dict[str, str]) -> None:
    sizes = {name: int(engine.docker("image", "inspect", "--format", "{{.Size}}", name)) for name in images.values()}
    for name, size in sizes.items():
        print(f"image {name}: {size / 1e6:.0f} MB")


def _print_commands(local: RestClient, contained: RestClient) -> None:
    taken: dict[str, tuple[list[float], list[float]]] = {}
    for _ in range(REPEATS):
        for number, client in enumerate((local, contained)):
            for what, seconds in _one_life(client).items():
                taken.setdefault(what, ([], []))[number].append(seconds)
    for what, times in taken.items():
        processes, containers = map(median, times)
        print(
            f"{what}: {1000 * containers:.1f} ms in containers, {1000 * processes:.1f} ms as processes,"
            f" {containers / processes:.2f} times"
        )


def _one_life(client: RestClient) -> dict[str, float]:
    launch, record = _timed(lambda: client.launch("endless"))
    number = record["simulationID"]
    assert record["state"] == "paused", record
    start, _ = _timed(lambda: client.set_state(number, "started"))
    stop, _ = _timed(lambda: client.set_state(number, "stopped"))
    return {"POST until answered, paused": launch, "PUT started": start, "PUT stopped, logs stored": stop}


def _timed(call: Callable[[], Value]) -> tuple[float, Value]:
    began = time.perf_counter()
    value = call()
    return time.perf_counter() - began, value


if __name__ == "__main__":
    main()
