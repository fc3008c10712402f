"""Who is there: launchers with the room that they have, and simulation servers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

from nrp_common.bus import Bus
from nrp_common.messages import LauncherPresence, ServerPresence, Wishes
from nrp_common.topics import Topics


class Presences:
    """Which launchers and simulation servers are connected to the bus, as they say themselves or their last wills do.

    Usable from several threads.

    Attributes:
        room_changed: called, in the bus's thread, when a launcher has said what room it has.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self.room_changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()  # guards the four below
        self._launchers: dict[str, LauncherPresence] = {}
        self._asked: dict[str, int] = {}
        self._servers: set[str] = set()
        self._lost_servers: set[str] = set()

    def listen_to(self, bus: Bus) -> None:
        """Take over what is said on the bus from now on."""
        bus.subscribe(self._topics.each_launcher_presence(), self._launcher_heard)
        bus.subscribe(self._topics.each_server_presence(), self._server_heard)

    def forget(self) -> None:
        """Know of nobody until they are heard again: who was lost while the broker was away left no last will."""
        with self._lock:
            self._launchers.clear()
            self._asked.clear()
            self._servers.clear()
            self._lost_servers.clear()

    # -- launchers -----------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many simulations all launchers together can run at once."""
        with self._lock:
            return sum(presence.capacity for presence in self._launchers.values())

    def totals(self) -> tuple[int, int, int]:
        """How many launchers are there, how many simulations they take at once, and how many they have."""
        with self._lock:
            presences = list(self._launchers.values())
        return len(presences), sum(each.capacity for each in presences), sum(each.running for each in presences)

    def has_launcher(self, name: str) -> bool:
        """Whether the launcher of that name is there."""
        with self._lock:
            return name in self._launchers

    def has_busy_launcher(self, name: str) -> bool:
        """Whether the launcher of that name is there and runs any simulation at all."""
        with self._lock:
            return name in self._launchers and self._launchers[name].running > 0

    def instance_of(self, name: str) -> str:
        """Which launcher of that name was heard last, "" when it did not say so, or is not there."""
        with self._lock:
            return self._launchers[name].instance if name in self._launchers else ""

    def by_room(self, labels: Collection[str] = ()) -> list[str]:
        """The launchers that are there and have all `labels`, those with most room first, full ones included.

        A launcher's name counts as one of its labels.
        """
        with self._lock:
            fitting = [name for name, has in self._launchers.items() if {name, *has.labels}.issuperset(labels)]
            return sorted(fitting, key=lambda name: (-self._room(name), name))

    def with_room(self, wishes: Wishes) -> list[str]:
        """Those of `by_room` that say that they have room for a simulation that asks for so much."""
        fitting = self.by_room(wishes.labels)
        with self._lock:
            return [name for name in fitting if self._has_room(name, wishes)]

    def room_of(self, launcher: str) -> int:
        """How many simulations more a launcher takes, as far as is known; 0 when it is not there."""
        with self._lock:
            return self._room(launcher) if launcher in self._launchers else 0

    def described(self) -> str:
        """The launchers that are there and their labels, in words."""
        with self._lock:
            labelled = [f"'{name}' has {', '.join(has.labels) or 'none'}" for name, has in self._launchers.items()]
        return "; ".join(sorted(labelled))

    def _has_room(self, launcher: str, wishes: Wishes) -> bool:
        presence = self._launchers.get(launcher)
        return (
            presence is not None
            and self._room(launcher) > 0
            and (presence.free_cores is None or presence.free_cores >= wishes.cores)
            and (presence.free_memory_mb is None or presence.free_memory_mb >= wishes.memory_mb)
            and (presence.free_gpus is None or presence.free_gpus >= wishes.gpus)
        )

    def note_asked(self, launcher: str) -> None:
        """Count a launch that the launcher's own word does not include yet, so that a burst spreads out."""
        with self._lock:
            self._asked[launcher] = self._asked.get(launcher, 0) + 1

    def _room(self, launcher: str) -> int:
        presence = self._launchers[launcher]
        return presence.capacity - presence.running - self._asked.get(launcher, 0)

    def _launcher_heard(self, topic: str, payload: bytes) -> None:
        name = self._topics.launcher_of(topic)
        presence = LauncherPresence.from_json(payload) if payload else LauncherPresence(online=False)
        if name is None or presence is None:
            return
        with self._lock:
            self._asked.pop(name, None)
            if presence.online:
                self._launchers[name] = presence
            else:
                self._launchers.pop(name, None)
        self.room_changed()

    # -- servers -------------------------------------------------------------------------------------------------------

    def has_server(self, incarnation: str) -> bool:
        """Whether the server of that incarnation is there."""
        with self._lock:
            return incarnation in self._servers

    @property
    def lost_servers(self) -> set[str]:
        """The incarnations of servers of which there is only a last will."""
        with self._lock:
            return self._lost_servers.copy()

    def _server_heard(self, topic: str, payload: bytes) -> None:
        incarnation = self._topics.incarnation_of(topic)
        presence = ServerPresence.from_json(payload) if payload else ServerPresence(online=False)
        if incarnation is None or presence is None:
            return
        with self._lock:
            self._servers.discard(incarnation)
            self._lost_servers.discard(incarnation)
            if presence.online:
                self._servers.add(incarnation)
            elif payload:
                self._lost_servers.add(incarnation)
