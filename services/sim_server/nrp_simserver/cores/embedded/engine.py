"""What the loop asks of an engine, and which class runs which type.

A new engine type is a subclass of `Engine` with an `engine_type`, in a module that the package imports.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from nrp_common.errors import EngineFailed
from nrp_simserver.cores import DataPublisher
from nrp_simserver.cores.configuration import EngineConfiguration
from nrp_simserver.cores.embedded.datapacks import DataPack
from nrp_simserver.cores.error_place import locate

Configuration = TypeVar("Configuration", bound=EngineConfiguration)


class Engine(ABC, Generic[Configuration]):
    """One engine of a simulation, between `initialize` and `shutdown`.

    Args:
        configuration: the engine's entry in the configuration.
        folder: the experiment's folder, absolute.
        publisher: publishes data that is streamed while the simulation runs; None when nobody listens.
    """

    engine_type: ClassVar[str]

    types: ClassVar[dict[str, type[Engine[Any]]]] = {}
    """The class for every engine type that can be run."""

    runs_here_only: ClassVar[bool] = False
    """Whether it cannot run in a process of its own."""

    runs_elsewhere: ClassVar[bool] = False
    """Whether it only drives a process that there is anyway; then it sees to EngineEnvParams and such by itself."""

    once_a_process: ClassVar[str] = ""
    """The simulator of which there can be one a process, "" when there is none."""

    def __init_subclass__(cls) -> None:
        if "engine_type" in cls.__dict__:
            Engine.types[cls.engine_type] = cls

    def __init__(self, configuration: Configuration, folder: Path, publisher: DataPublisher | None) -> None:
        self.configuration = configuration
        self.folder = folder
        self.publisher = publisher
        self.name = configuration.name
        self.timestep_ns = configuration.timestep_ns

    @classmethod
    def missing(cls, configuration: Configuration) -> str:  # noqa: ARG003  for those that lack something
        """What this machine lacks to run such an engine, and how to get it; "" when it lacks nothing."""
        return ""

    @abstractmethod
    def initialize(self) -> None:
        """Get ready for the first step."""

    @abstractmethod
    def start_step(self, timestep_ns: int) -> None:
        """Advance by one step. An engine that runs elsewhere only begins it here, and has a `complete_step`."""

    def complete_step(self) -> None:
        """Wait until the step begun last has ended."""

    @abstractmethod
    def get_datapack(self, name: str) -> DataPack:
        """A snapshot of a datapack as the engine holds it after its last step."""

    @abstractmethod
    def set_datapacks(self, datapacks: dict[str, Any]) -> None:
        """Take over the data of datapacks, by name, before the next step starts."""

    @abstractmethod
    def reset(self) -> None:
        """Go back to t = 0."""

    def seed(self, seed: int) -> None:
        """Have what its simulator draws after the next `reset` follow from `seed`, a positive number of 32 bits.

        The generators of `random` and `numpy.random` are seeded already.
        """

    @abstractmethod
    def shutdown(self) -> None:
        """End, and free everything."""


def engine_error(engine: Engine[Any], error: BaseException) -> EngineFailed:
    """The error of an engine that raised `error`, to be raised from that."""
    if isinstance(error, EngineFailed):
        return EngineFailed(str(error), file=error.file, line=error.line)
    place = locate(error, engine.folder)
    if not place.file:
        file = engine.configuration.main_file
        return EngineFailed(f"engine {engine.name!r}: {place.describe(file)}", file=file)
    return EngineFailed(place.describe(), file=place.file, line=place.line)
