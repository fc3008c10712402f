"""How many datapacks a second a data transfer engine hands on: to a subscriber, and to files."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from benchmarks.figures import Figure
from nrp_cli.rest_client import RestClient
from nrp_simserver.cores.embedded import EmbeddedCore

EXPERIMENT = Path(__file__).parent / "experiments" / "transfer"

LOADS = (("1 kB", 1_000, 10_000), ("30 kB", 30_000, 3_000), ("230 kB", 230_000, 600))
"""Name, bytes and number of the datapacks. A colour image of 320 x 240 has 230 kB."""

ROUNDS = 3

WITHIN_S = 120

BARE_CLIENT = """
import os, sys
import paho.mqtt.client as mqtt

os.nice(10)  # as simulations are
host, port, length, count = sys.argv[1], *map(int, sys.argv[2:])
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.max_queued_messages_set(0)
client.connect(host, port)
client.loop_start()
under_way = []
for number in range(count):
    under_way.append(client.publish("nrp_simulation/0/data/frame", f"{number:08}{'x' * (length - 8)}".encode(), qos=1))
    if len(under_way) > 64:
        under_way.pop(0).wait_for_publish()
for publication in under_way:
    publication.wait_for_publish()
client.disconnect()
"""
"""Publishes as much without any simulation."""


class Subscriber:
    """Notes what arrives of one publisher's datapacks, each of which begins with its number."""

    def __init__(self, address: str, expected: int) -> None:
        self.numbers: list[int] = []
        self.is_complete = threading.Event()
        self._began = self._ended = 0.0
        self._expected = expected
        self._is_subscribed = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
        self._client.on_message = lambda _client, _userdata, message: self._take(message.payload)
        self._client.on_subscribe = lambda *_: self._is_subscribed.set()
        host, port = address.split(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        self._client.subscribe("nrp_simulation/+/data/frame", qos=1)
        self._is_subscribed.wait(WITHIN_S)

    @property
    def rate(self) -> float:
        """Datapacks a second, from the first to the last."""
        return (len(self.numbers) - 1) / (self._ended - self._began)

    def _take(self, payload: bytes) -> None:
        self._ended = time.perf_counter()
        self._began = self._began or self._ended
        start = payload.index(b"x") - 8
        self.numbers.append(int(payload[start : start + 8]))
        if len(self.numbers) == self._expected:
            self.is_complete.set()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def measure_streaming(client: RestClient, address: str, broker: str) -> list[Figure]:
    """Through a simulation of a running stack, as fast as it goes, to a subscriber at QoS 1; and without one."""
    figures = []
    for size, length, count in LOADS:
        with tempfile.TemporaryDirectory() as scratch:
            folder = _experiment(Path(scratch), length, count, network=True)
            experiment = client.import_experiment(folder, f"transfer_{length}")
        rates, ratios, lost = [], [], 0
        for _ in range(ROUNDS):
            streamed = _received(address, count, lambda experiment=experiment: _run(client, experiment))
            bare = _received(address, count, lambda length=length, count=count: _publish_bare(address, length, count))
            rates.append(streamed.rate)
            ratios.append(streamed.rate / bare.rate)
            lost += count - len(set(streamed.numbers))
            assert streamed.numbers == sorted(streamed.numbers)
        rate = statistics.median(rates)
        seen = f"{rate:,.0f}/s ({rate * length / 1e6:.1f} MB/s), {lost} of {ROUNDS * count} lost"
        what = f"{size} datapacks to a subscriber ({broker})"
        figures.append(Figure(what, f"{seen}, {100 * statistics.median(ratios):.0f} % of a bare client's"))
    return figures


def _received(address: str, count: int, publish: Callable[[], None]) -> Subscriber:
    subscriber = Subscriber(address, count)
    publish()
    subscriber.is_complete.wait(10)
    subscriber.close()
    return subscriber


def _run(client: RestClient, experiment: str) -> None:
    simulation_id = client.launch(experiment)["simulationID"]
    client.set_state(simulation_id, "started")
    until = time.monotonic() + WITHIN_S
    while client.simulation(simulation_id)["state"] != "completed":
        if time.monotonic() > until:
            raise TimeoutError(f"simulation {simulation_id} does not complete")
        time.sleep(0.1)
    client.set_state(simulation_id, "stopped")
    client.delete(simulation_id)


def _publish_bare(address: str, length: int, count: int) -> None:
    host, port = address.split(":")
    subprocess.run([sys.executable, "-c", BARE_CLIENT, host, port, str(length), str(count)], check=True)


def measure_recording() -> list[Figure]:
    """To files, in this process."""
    figures = []
    for size, length, count in LOADS:
        with tempfile.TemporaryDirectory() as scratch:
            core = EmbeddedCore(_experiment(Path(scratch), length, count, network=False))
            core.initialize()
            began = time.perf_counter()
            core.run_loop(count)
            rate = count / (time.perf_counter() - began)
            core.shutdown()
        figures.append(Figure(f"{size} datapacks to a file", f"{rate:,.0f}/s ({rate * length / 1e6:.1f} MB/s)"))
    return figures


def _experiment(scratch: Path, length: int, count: int, *, network: bool) -> Path:
    folder = Path(shutil.copytree(EXPERIMENT, scratch / "experiment"))
    file = folder / "simulation_config.json"
    configuration: dict[str, Any] = json.loads(file.read_text())
    camera, transfer = configuration["EngineConfigs"]
    camera["EngineExtraConfigs"]["bytes"] = length
    transfer["dumps"][0] |= {"network": network, "file": not network}
    file.write_text(json.dumps(configuration))
    (folder / "frames.json").write_text(json.dumps(count))
    return folder
