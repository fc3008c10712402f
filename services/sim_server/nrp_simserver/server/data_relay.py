"""What the original nrp-core publishes itself, brought to the topics of its simulation.

Its data transfer engine connects to the broker under a name made of the MQTT prefix and the engine's name, and of two
connections with one name a broker ends the first. So each simulation has it publish below a prefix of its own, from
where its messages are passed on.
"""

from __future__ import annotations

import json
import threading
from typing import Final

from nrp_common.bus import Bus
from nrp_common.topics import Topics
from nrp_simserver.cores import DataPublisher

RETAINED: Final = frozenset({"data", "welcome"})
"""The topics below a simulation's whose last message brokers keep."""

QOS: Final = 1

LAST: Final = "last"
"""The topic of a message to itself, after which nothing more comes."""

DRAINED_WITHIN_S: Final = 0.5
"""How long a broker may take for what was published last."""


class DataRelay:
    """Passes on what the original nrp-core publishes for one simulation.

    Args:
        bus: the process's connection.
        topics: of the installation.
        simulation_id: of the simulation.
        publish: publishes on the simulation's own topics.
    """

    def __init__(self, bus: Bus, topics: Topics, simulation_id: int, publish: DataPublisher) -> None:
        self._bus = bus
        self._publish = publish
        self._prefix = topics.relayed(simulation_id)
        self._root = Topics(self._prefix).simulation(simulation_id, "")
        self._own_root = topics.simulation(simulation_id, "")
        self._is_listening = False
        self._is_drained = threading.Event()

    def listen(self) -> str:
        """Begin. Returns the MQTT prefix that has to be published below."""
        self._is_listening = True
        self._bus.subscribe(f"{self._root}#", self._pass_on, qos=QOS)
        return self._prefix

    def close(self) -> None:
        """Pass on the rest of what was published, and leave nothing of it on the broker."""
        if self._is_listening:
            for leaf in RETAINED:
                self._bus.publish(self._root + leaf, b"", qos=QOS, retain=True)
            self._bus.publish(self._root + LAST, b"", qos=QOS)
            self._is_drained.wait(DRAINED_WITHIN_S)

    def _pass_on(self, topic: str, payload: bytes) -> None:
        leaf = topic.removeprefix(self._root)
        if leaf == LAST:
            self._is_drained.set()
        elif leaf not in RETAINED:
            self._publish(leaf, payload, QOS, False)
        elif payload:  # else it is what was cleared below
            self._publish(leaf, self._renamed(payload) if leaf == "data" else payload, QOS, True)
            self._bus.publish(topic, b"", qos=QOS, retain=True)

    def _renamed(self, payload: bytes) -> bytes:
        """The list of the topics with data, with those that they are passed on to. Anything else stays as it is."""
        try:
            entries = json.loads(payload)
            for entry in entries:
                entry["topic"] = self._own_root + entry["topic"].removeprefix(self._root)
        except (ValueError, TypeError, KeyError, AttributeError):
            return payload
        return json.dumps(entries).encode()
