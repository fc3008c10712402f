"""Where the time of a launch goes, as the bus shows it: each phase ends with a message."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import paho.mqtt.client as mqtt

from benchmarks.figures import Figure, milliseconds
from nrp_cli.rest_client import RestClient

PHASES = (
    ("launch asked", "request checked, row in the catalogue"),
    ("launch taken", "launcher takes it"),
    ("server there", "experiment cloned, server forked or taken, on the bus"),
    ("loading", "server turned into the simulation's"),
    ("starting engines", "configuration, main script, external processes"),
    ("paused", "engines"),
    ("answered", "mirrored and answered"),
)
"""What ends each phase, and what is done in it."""


@dataclass
class _Observer:
    """Notes when which message of a launch was seen first, on the clock of `time.perf_counter`."""

    seen: dict[str, float] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, topic: str, payload: bytes) -> None:
        now = time.perf_counter()
        if payload and (event := _event(topic, payload)) is not None:
            self.note(event, now)

    def note(self, event: str, when: float = 0.0) -> None:
        with self._changed:
            self.seen.setdefault(event, when)
            self._changed.notify_all()

    def wait_for(self, event: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: event in self.seen, timeout=30):
                raise TimeoutError(f"'{event}' was never seen")


def _event(topic: str, payload: bytes) -> str | None:
    try:
        message = json.loads(payload)
    except ValueError:  # streamed data
        return None
    match topic.split("/"):
        case ["nrp_launcher", _, "launch"]:
            return "launch asked"
        case ["nrp_gateway", _, "reply"] if message.get("state") == "created":
            return "launch taken"
        case ["nrp_server", _, "presence"] if message.get("online") and message.get("simulation_id") is not None:
            return "server there"
        case ["nrp_simulation", _, "status"] if "Loading" in str(message.get("progress")):
            return "loading"
        case ["nrp_simulation", _, "status"] if "Starting engines" in str(message.get("progress")):
            return "starting engines"
        case ["nrp_simulation", _, "lifecycle"] if message["target_state"] == "paused":
            return "paused"
    return None


def measure_phases(client: RestClient, mqtt_address: str, broker: str, repeats: int) -> list[Figure]:
    """Launch one simulation after the other."""
    times: dict[str, list[float]] = {event: [] for event, _ in PHASES}
    with _observer(mqtt_address) as observer:
        for _ in range(repeats):
            observer.seen.clear()
            before = time.perf_counter()
            simulation_id = client.launch("endless")["simulationID"]
            observer.seen["answered"] = time.perf_counter()
            observer.wait_for("paused")
            observer.wait_for("server there")
            for event, _ in PHASES:
                times[event].append(observer.seen[event] - before)
                before = observer.seen[event]
            client.set_state(simulation_id, "stopped")
    return [Figure(f"of a launch: {what} ({broker})", milliseconds(times[event])) for event, what in PHASES]


@contextmanager
def _observer(mqtt_address: str) -> Iterator[_Observer]:
    observer = _Observer()
    watcher = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    watcher.on_message = lambda _client, _userdata, message: observer.take(message.topic, message.payload)
    watcher.on_subscribe = lambda *_: observer.note("subscribed")
    host, port = mqtt_address.split(":")
    watcher.connect(host, int(port))
    watcher.subscribe("#")
    watcher.loop_start()
    observer.wait_for("subscribed")
    try:
        yield observer
    finally:
        watcher.disconnect()
        watcher.loop_stop()
