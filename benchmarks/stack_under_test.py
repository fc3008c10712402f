"""A private stack with the endless experiment in it, and a witness on its bus."""

from __future__ import annotations

import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import paho.mqtt.client as mqtt

from nrp_cli.rest_client import RestClient
from nrp_cli.stack import Stack, StackOptions

EXPERIMENT = Path(__file__).parent / "experiments" / "endless"
PACED_SCRIPT = "paced_script.py"


@dataclass
class Witness:
    """When each simulation's states were seen on the bus, on the clock of `time.perf_counter`."""

    seen: dict[tuple[int, str], float] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def take(self, topic: str, payload: bytes) -> None:
        """Note a lifecycle message."""
        now = time.perf_counter()
        if payload:
            with self._changed:
                simulation_id = int(topic.split("/")[-2])
                self.seen.setdefault((simulation_id, json.loads(payload)["target_state"]), now)
                self._changed.notify_all()

    def when(self, simulation_id: int, state: str) -> float:
        """When the simulation was first in `state`; waits for it."""
        with self._changed:
            if not self._changed.wait_for(lambda: (simulation_id, state) in self.seen, timeout=60):
                raise TimeoutError(f"simulation {simulation_id} was never {state}")
            return self.seen[simulation_id, state]


@contextmanager
def stack_under_test(broker: str, capacity: int) -> Iterator[tuple[RestClient, Witness, Stack]]:
    """Bring up a stack for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="nrp_benchmark_") as data:
        options = StackOptions(Path(data), port=0, broker=broker, environment={"NRP_CAPACITY": str(capacity)})
        with Stack(options) as stack, RestClient(stack.url) as client:
            client.import_experiment(EXPERIMENT, "endless")
            witness = Witness()
            watcher = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
            watcher.on_message = lambda _client, _userdata, message: witness.take(message.topic, message.payload)
            host, port = stack.mqtt.split(":")
            watcher.connect(host, int(port))
            watcher.subscribe("nrp_simulation/+/lifecycle")
            watcher.loop_start()
            try:
                yield client, witness, stack
            finally:
                watcher.disconnect()
                watcher.loop_stop()
