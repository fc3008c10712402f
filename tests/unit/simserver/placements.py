"""What the tests of placements ask for, and who is told what becomes of it."""

from __future__ import annotations

import threading

from nrp_common.messages import Launch, Wishes
from nrp_simserver.placement.placement import QueuePlace, ServerOrder
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder


def order(folder: SimulationFolder, incarnation: str, **wishes: object) -> ServerOrder:
    """A server that is to run."""
    setup = ServerSetup(
        broker_host="localhost",
        broker_port=1883,
        broker_password="hush-hush",
        simulation_id=folder.simulation_id,
        incarnation=incarnation,
        folder=folder.path,
        configuration="simulation_config.json",
        main_script="main_script.py",
    )
    launch = Launch(
        deadline=0,
        simulation_id=folder.simulation_id,
        experiment_id="e",
        configuration="c",
        main_script="m",
        owner="owner",
        wishes=Wishes.model_validate(wishes),
    )
    return ServerOrder(setup, launch, {})


class Told:
    """A listener that notes down what it is told."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.places: list[QueuePlace] = []
        self.spawned = 0
        self.ends: list[tuple[str, bool]] = []
        self.all_told = threading.Event()

    def is_taken(self, incarnation: str) -> bool:
        return False

    def server_found(self, incarnation: str) -> None:
        self.found.append(incarnation)

    def server_waits(self, incarnation: str, place: QueuePlace) -> None:
        self.places.append(place)

    def server_spawned(self, incarnation: str, pid: int | None = None, spawner: int | None = None) -> None:
        self.spawned += 1

    def server_ended(self, incarnation: str, how: str, *, by_placement: bool = False) -> None:
        self.ends.append((how, by_placement))

    def spawner_ended(self, incarnation: str, how: str) -> None:
        raise AssertionError

    @property
    def reason(self) -> str:
        return self.places[-1].reason if self.places else ""
