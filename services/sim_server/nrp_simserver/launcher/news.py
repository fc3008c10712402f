"""What the thread that sees a simulation through is told by all others."""

from __future__ import annotations

from dataclasses import dataclass

from nrp_common.messages import LifecycleMessage
from nrp_simserver.resources.limits import Excess


@dataclass(frozen=True)
class Cloned:
    """The experiment is cloned, or it did not work."""

    error: Exception | None = None


@dataclass(frozen=True)
class Waits:
    """The simulation server waits for a place to run at."""


@dataclass(frozen=True)
class Spawned:
    """The simulation server runs."""


@dataclass(frozen=True)
class Ended:
    """There is no simulation server any more."""

    how: str
    """In a sentence."""
    by_placement: bool = False
    """Whether its placement had it end."""
    with_spawner: bool = False
    """Whether its spawner ended, and it with that one."""


@dataclass(frozen=True)
class StopAsked:
    """The simulation is to be stopped."""

    reason: str | None = None
    """Why, when it was not the owner who asked."""


@dataclass(frozen=True)
class Overruled:
    """Somebody else passed a verdict on the simulation."""

    by: LifecycleMessage


@dataclass(frozen=True)
class Swollen:
    """The simulation has too many processes, and is being killed."""

    excess: Excess


News = Cloned | Waits | Spawned | Ended | StopAsked | Overruled | Swollen
