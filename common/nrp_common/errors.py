"""Everything that can go wrong and that somebody can do something about: one root, one class a cause.

The message of an error says what is wrong and where. Raised without a message, an error says its docstring's first
line.
"""

from __future__ import annotations

from pathlib import Path


class NRPError(Exception):
    """Something went wrong in the NRP backend."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip().splitlines()[0])


class SettingsError(NRPError):
    """A setting is missing, malformed or contradicts another one."""


# -- the bus ---------------------------------------------------------------------------------------------------------


class BusUnavailable(NRPError):
    """The MQTT broker cannot be reached."""


class AccessRefused(BusUnavailable):
    """The MQTT broker does not let this client do that."""


class CommandTimeout(NRPError):
    """Nobody answered a command in time."""


class CommandRefused(NRPError):
    """The receiver of a command answered that it will not carry it out."""


# -- the storage -----------------------------------------------------------------------------------------------------


class StorageError(NRPError):
    """The Storage Server answered with an error."""


class StorageUnavailable(StorageError):
    """The Storage Server cannot be reached, or answers with errors of its own."""


class StorageFull(StorageError):
    """The Storage Server has no room left."""


class StorageForbidden(StorageError):
    """The Storage Server does not let this caller at the experiment."""


class ExperimentNotFound(StorageError):
    """There is no such experiment."""


class StoredFileNotFound(StorageError):
    """There is no such file in the experiment, or this caller may not read it."""


class InvalidName(StorageError):
    """No experiment and no file can have this name."""


class InvalidToken(StorageError):
    """The Storage Server does not know the bearer token."""


# -- the lifecycle ---------------------------------------------------------------------------------------------------


class InvalidTransition(NRPError):
    """The state of a simulation does not allow the transition."""

    def __init__(self, source: str, target: str) -> None:
        super().__init__(f"The state transition is invalid ('{source}' -> '{target}')")
        self.source = source
        self.target = target


class SimulationFinal(NRPError):
    """The state transition is invalid (The simulation requested is finalized)"""  # noqa: D400, D415  the wire's words


# -- the experiment --------------------------------------------------------------------------------------------------


class ExperimentError(NRPError):
    """The experiment cannot run as it is; the message names the file and what is wrong in it.

    Attributes:
        file: the file at fault, relative to the experiment's folder, or "" when no single file is.
        line: its line, counted from 1, or 0 when unknown.
    """

    def __init__(self, message: str, *, file: str | Path = "", line: int = 0) -> None:
        super().__init__(message)
        self.file = str(file)
        self.line = line


class ConfigurationError(ExperimentError):
    """The experiment's configuration is missing, not JSON, or says something that is not allowed."""


class EngineUnavailable(ExperimentError):
    """Nothing on this machine can run an engine that the experiment asks for."""


class ProtoFileWrong(ExperimentError, RuntimeError):
    """A .proto file of the experiment cannot be compiled."""


class EngineFailed(ExperimentError, RuntimeError):
    """An engine raised an exception. Its cause is that exception, with its traceback."""


class FunctionFailed(ExperimentError, RuntimeError):
    """A function of the experiment, or a node of its graph, raised an exception, or is not what it has to be."""


class CoreFailed(ExperimentError, RuntimeError):
    """NRPCoreSim could not do what it was asked; nothing but to shut it down is left."""


class CoreLost(ExperimentError, ConnectionError):
    """NRPCoreSim has ended, or can no longer be reached."""


class CoreNotReady(EngineUnavailable, TimeoutError):
    """NRPCoreSim could not be reached in time."""


class CallNotAllowed(NRPError, ConnectionError):
    """Can't process request"""  # noqa: D400, D415  nrp-core's words; its clients know this case as a ConnectionError
