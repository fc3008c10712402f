"""Who is there: launchers with the room that they have, and simulation servers."""

from __future__ import annotations

import threading

from nrp_common.bus import Bus
from nrp_common.messages import LauncherPresence, ServerPresence
from nrp_common.topics import Topics


class Presences:
    """Which launchers and simulation servers are connected to the bus, as they say themselves or their last wills do.

    Usable from several threads.
    """

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._lock = threading.Lock()  # guards the three below
        self._launchers: dict[str, LauncherPresence] = {}
        self._asked: dict[str, int] = {}
        self._servers: set[str] = set()

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

    # -- launchers -----------------------------------------------------------------------------------------------------

    @property
    def capacity(self) -> int:
        """How many simulations all launchers together can run at once."""
        with self._lock:
            return sum(presence.capacity for presence in self._launchers.values())

    def has_launcher(self, name: str) -> bool:
        """Whether the launcher of that name is there."""
        with self._lock:
            return name in self._launchers

    def has_busy_launcher(self, name: str) -> bool:
        """Whether the launcher of that name is there and runs any simulation at all."""
        with self._lock:
            return name in self._launchers and self._launchers[name].running > 0

    def by_room(self) -> list[str]:
        """The launchers that are there, those with most room first, full ones included."""
        with self._lock:
            return sorted(self._launchers, key=lambda name: (-self._room(name), name))

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

    # -- servers -------------------------------------------------------------------------------------------------------

    def has_server(self, incarnation: str) -> bool:
        """Whether the server of that incarnation is there."""
        with self._lock:
            return incarnation in self._servers

    def _server_heard(self, topic: str, payload: bytes) -> None:
        incarnation = self._topics.incarnation_of(topic)
        presence = ServerPresence.from_json(payload) if payload else ServerPresence(online=False)
        if incarnation is None or presence is None:
            return
        with self._lock:
            if presence.online:
                self._servers.add(incarnation)
            else:
                self._servers.discard(incarnation)
