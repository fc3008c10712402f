"""The names of all topics on the bus, built and taken apart here and nowhere else.

Topics below `nrp_simulation/` are what NRP 4 frontends know; their names and payloads do not change. Everything may
carry a prefix, so that several installations share a broker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MOST_DIGITS: Final = 19
"""Of an id: those of the largest that a catalogue can count to. Python does not read any number of them."""


@dataclass(frozen=True)
class Topics:
    """The topics of one installation.

    Attributes:
        prefix: put before every topic with a slash; "" for none (then there is no leading slash).
    """

    prefix: str = ""

    def _name(self, *levels: object) -> str:
        name = "/".join(str(level) for level in levels)
        return f"{self.prefix}/{name}" if self.prefix else name

    # -- one simulation ------------------------------------------------------------------------------------------------

    def simulation(self, simulation_id: int | str, leaf: str) -> str:
        """A topic below a simulation's, such as `data/camera`."""
        return self._name("nrp_simulation", simulation_id, leaf)

    def status(self, simulation_id: int | str) -> str:
        """Times and state, and progress messages."""
        return self.simulation(simulation_id, "status")

    def runtime_error(self, simulation_id: int | str) -> str:
        """What went wrong in the experiment's own files."""
        return self.simulation(simulation_id, "runtime_error")

    def lifecycle(self, simulation_id: int | str) -> str:
        """One message a transition, the last one retained."""
        return self.simulation(simulation_id, "lifecycle")

    def command(self, simulation_id: int | str) -> str:
        """Commands to the simulation server, answered on the topic that the request names."""
        return self.simulation(simulation_id, "command")

    def archives(self, simulation_id: int | str) -> str:
        """Where the logs and results of an ended simulation were stored."""
        return self.simulation(simulation_id, "archives")

    def relayed(self, simulation_id: int | str) -> str:
        """The prefix below which the original nrp-core publishes for one simulation, to be passed on from there.

        It is part of a client's name too, in which some brokers allow no slash.
        """
        return self._name("nrp_core_sim", simulation_id).replace("/", "_")

    # -- processes -----------------------------------------------------------------------------------------------------

    def server_presence(self, incarnation: str) -> str:
        """Whether a simulation server is there; also its last will."""
        return self._name("nrp_server", incarnation, "presence")

    def launcher_presence(self, launcher: str) -> str:
        """Whether a launcher is there and what it can take; also its last will."""
        return self._name("nrp_launcher", launcher, "presence")

    def launch(self, launcher: str) -> str:
        """Launch requests to one launcher."""
        return self._name("nrp_launcher", launcher, "launch")

    def collect(self, launcher: str) -> str:
        """Requests for the logs or results of a simulation that still runs, or waits for its storage."""
        return self._name("nrp_launcher", launcher, "collect")

    def inquiry(self, launcher: str) -> str:
        """Requests for how one launcher is."""
        return self._name("nrp_launcher", launcher, "inquiry")

    def reply(self, client: str) -> str:
        """Where a gateway takes the answers to its requests."""
        return self._name("nrp_gateway", client, "reply")

    def doctor(self, leaf: str) -> str:
        """A topic of `nrp doctor`'s own, for messages to itself and answers to it."""
        return self._name("nrp_doctor", leaf)

    # -- filters and names taken apart ---------------------------------------------------------------------------------

    def each_simulation(self, leaf: str) -> str:
        """A filter for one topic of every simulation."""
        return self._name("nrp_simulation", "+", leaf)

    def simulation_subtree(self) -> str:
        """A filter for everything of every simulation."""
        return self._name("nrp_simulation", "#")

    def server_subtree(self) -> str:
        """A filter for everything of every simulation server."""
        return self._name("nrp_server", "#")

    def each_launcher_presence(self) -> str:
        """A filter for the presence of every launcher."""
        return self._name("nrp_launcher", "+", "presence")

    def each_server_presence(self) -> str:
        """A filter for the presence of every simulation server."""
        return self._name("nrp_server", "+", "presence")

    def simulation_id_of(self, topic: str) -> int | None:
        """The id in a topic below `nrp_simulation/`, None when it is no such topic or the id is no number."""
        level = self._second_level_of(topic, "nrp_simulation")
        is_number = level is not None and level.isascii() and level.isdigit() and len(level) <= MOST_DIGITS
        return int(level) if level is not None and is_number else None

    def launcher_of(self, topic: str) -> str | None:
        """The name in a topic below `nrp_launcher/`, None when it is no such topic."""
        return self._second_level_of(topic, "nrp_launcher")

    def incarnation_of(self, topic: str) -> str | None:
        """The incarnation in a topic below `nrp_server/`, None when it is no such topic."""
        return self._second_level_of(topic, "nrp_server")

    def _second_level_of(self, topic: str, first: str) -> str | None:
        start = self._name(first) + "/"
        if not topic.startswith(start):
            return None
        return topic[len(start) :].split("/", 1)[0] or None
