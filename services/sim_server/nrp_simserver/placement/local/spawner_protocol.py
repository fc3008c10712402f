"""What a launcher and a spawner say to each other: one JSON object a line, over a stream socket.

A spawner outlives its launcher, so the two may be of different versions: messages and fields are only ever added, and
whoever does not know a kind of message passes over it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from nrp_simserver.simulation_folder import BusAccess, ServerSetup

# -- orders ----------------------------------------------------------------------------------------------------------


class Prepare(BaseModel):
    """Keep idle servers ready, and know what to do when no launcher is there. The latest one holds.

    Attributes:
        idle_servers: how many.
        bus: how they get onto the bus; those that did it differently are dismissed.
        credentials_follow: whether they are told only with their simulation as whom to get onto the bus.
        orphaned_s: seconds without a launcher after which the spawner ends its servers and itself.
        stop_grace_s: seconds that the servers have to stop then, before they are killed.
        cgroups: where each idle server gets the cgroup that is its simulation's later, None where there are none.
    """

    model_config = ConfigDict(ser_json_inf_nan="constants")

    kind: Literal["prepare"] = "prepare"
    idle_servers: int
    bus: BusAccess
    credentials_follow: bool = False
    orphaned_s: float
    stop_grace_s: float
    cgroups: Path | None = None


class Spawn(BaseModel):
    """Start a simulation server: the idle one of this incarnation, when it is there, else a new one."""

    kind: Literal["spawn"] = "spawn"
    setup: ServerSetup


class Signal(BaseModel):
    """Send a signal to a simulation server; nothing when it has ended."""

    kind: Literal["signal"] = "signal"
    incarnation: str
    number: int


class Dismiss(BaseModel):
    """Let an idle server go; nothing when it is not there."""

    kind: Literal["dismiss"] = "dismiss"
    incarnation: str


class Retire(BaseModel):
    """Keep no idle servers any more, and end when the last server has ended."""

    kind: Literal["retire"] = "retire"


class End(BaseModel):
    """End all servers, and yourself, now."""

    kind: Literal["end"] = "end"


# -- reports ---------------------------------------------------------------------------------------------------------


class Hello(BaseModel):
    """The first report to a launcher. Reports of all servers that there are follow, and `AllTold`.

    Attributes:
        pid: the spawner's process id.
        identity: as it was started: see `spawner_folder.identity_of`.
        is_retired: whether it only waits for its servers to end.
    """

    kind: Literal["hello"] = "hello"
    pid: int
    identity: str
    is_retired: bool = False


class AllTold(BaseModel):
    """The launcher knows of all servers now."""

    kind: Literal["all told"] = "all told"


class Idle(BaseModel):
    """An idle server is there."""

    kind: Literal["idle"] = "idle"
    incarnation: str
    pid: int


class IdleGone(BaseModel):
    """An idle server is there no more."""

    kind: Literal["idle gone"] = "idle gone"
    incarnation: str


class PoolFault(BaseModel):
    """Idle servers die as soon as they are started.

    Attributes:
        reason: in words, with the last ones of the server.
        retry_after_s: seconds until the next is tried.
    """

    kind: Literal["pool fault"] = "pool fault"
    reason: str
    retry_after_s: float


class Spawned(BaseModel):
    """A simulation server runs."""

    kind: Literal["spawned"] = "spawned"
    incarnation: str
    pid: int


class NotSpawned(BaseModel):
    """A simulation server could not be started."""

    kind: Literal["not spawned"] = "not spawned"
    incarnation: str
    reason: str


class Ended(BaseModel):
    """A simulation server has ended.

    Attributes:
        incarnation: the server's.
        exit_code: its exit code, or the negative number of the signal that killed it.
        reason: why the spawner ended it, None when it did not.
    """

    kind: Literal["ended"] = "ended"
    incarnation: str
    exit_code: int
    reason: str | None = None


Order = Prepare | Spawn | Signal | Dismiss | Retire | End
Report = Hello | AllTold | Idle | IdleGone | PoolFault | Spawned | NotSpawned | Ended

_ORDER: Final[TypeAdapter[Order]] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])
_REPORT: Final[TypeAdapter[Report]] = TypeAdapter(Annotated[Report, Field(discriminator="kind")])


# -- lines -----------------------------------------------------------------------------------------------------------


def to_line(message: Order | Report) -> bytes:
    """A message as it goes through the socket."""
    return message.model_dump_json().encode() + b"\n"


def order_in(line: bytes) -> Order | None:
    """The order in a line, None when this version knows none such."""
    try:
        return _ORDER.validate_json(line)
    except ValidationError:
        return None


def report_in(line: bytes) -> Report | None:
    """The report in a line, None when this version knows none such."""
    try:
        return _REPORT.validate_json(line)
    except ValidationError:
        return None


class Lines:
    """Puts together again what arrives of lines."""

    def __init__(self) -> None:
        self._unfinished = b""

    def add(self, received: bytes) -> list[bytes]:
        """The lines that are complete now."""
        *lines, self._unfinished = (self._unfinished + received).split(b"\n")
        return lines
