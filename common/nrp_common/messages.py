"""The payloads on the bus, all JSON, each a pydantic model. The AsyncAPI document is generated from them.

`Status`, `Progress`, `RuntimeErrorReport` and the first four fields of `LifecycleMessage` are what NRP 4 frontends
read.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, FiniteFloat, ValidationError

from nrp_common import tracing
from nrp_common.lifecycle import SimulationEvent, SimulationState


class Message(BaseModel):
    """A payload. Unknown fields are ignored, so that versions can run side by side."""

    model_config = ConfigDict(populate_by_name=True, extra="ignore", frozen=True, use_attribute_docstrings=True)

    def to_json(self) -> bytes:
        """The payload as it goes onto the bus."""
        return self.model_dump_json(by_alias=True).encode()

    @classmethod
    def from_json(cls, payload: bytes) -> Self | None:
        """The message in `payload`, None when it holds none: anybody may write anything onto a bus."""
        try:
            return cls.model_validate_json(payload)
        except ValidationError:
            return None


# -- what frontends read ---------------------------------------------------------------------------------------------


class Status(Message):
    """Times and state of a simulation, on each change of state and at the status rate."""

    real_time: FiniteFloat = Field(0.0, alias="realTime")
    """Seconds for which it was `started`."""
    simulation_time: FiniteFloat = Field(0.0, alias="simulationTime")
    """Simulated seconds."""
    state: SimulationState
    simulation_time_left: FiniteFloat = Field(0.0, alias="simulationTimeLeft")
    """Simulated seconds until the experiment's time-out, 0 when it has none."""


class FailedStatus(Status):
    """The last status of a simulation that failed."""

    error: str
    """Why."""


class Task(Message):
    """A task that takes a while, in the words shown to the user."""

    task: str
    subtask: str = ""
    """What is done now."""
    number_of_subtasks: int = 0
    subtask_index: int = 0
    """From 0."""
    block_ui: bool = True
    """Whether the user can do nothing meanwhile."""


IDLE: Final = "Idle"
"""The task of an `IdleWarning`."""


class IdleWarning(Task):
    """An idle simulation is going to be stopped, unless it gets a command. Said again every few seconds until then."""

    task: str = IDLE
    block_ui: bool = False
    stops_at: FiniteFloat = Field(alias="stopsAt")
    """When, in seconds since 1970."""


WAITING_FOR_A_NODE: Final = "Waiting for a node"
"""The task of a `NodeQueue`."""


class NodeQueue(Task):
    """A simulation waits until its cluster has a place for it. Said again every few seconds until it has."""

    task: str = WAITING_FOR_A_NODE
    block_ui: bool = False
    queue_position: int | None = Field(None, alias="queuePosition")
    """How many jobs wait for such a place and get it no later, itself included; null when that is not known."""
    queue_reason: str = Field(alias="queueReason")
    """Why it waits, in the cluster's words."""


class TaskDone(Message):
    """The end of a task announced before."""

    task: str
    done: bool = True


class Progress(Message):
    """A progress message, on the status topic but without a state."""

    progress: IdleWarning | NodeQueue | Task | TaskDone


class ErrorType(StrEnum):
    """The four kinds of error that frontends know."""

    LOADING = "Loading"
    COMPILE = "Compile"
    RUNTIME = "Runtime"
    SIMULATION_TIMEOUT = "SimTimeout"


class RuntimeErrorReport(Message):
    """What went wrong in an experiment: the deepest place inside the experiment's own files."""

    sim_id: str
    """The simulation's id."""
    msg: str
    error_type: ErrorType
    file_name: str = Field("", alias="fileName")
    """Relative to the experiment, empty where unknown."""
    line_number: int = -1
    """From 1, -1 where unknown."""
    offset: int = -1
    """The column from 1, -1 where unknown."""
    line_text: str = ""


PENDING: Final = "pending"
"""Stands for the name of an archive that the launcher keeps until the Storage Server takes it."""


class ArchiveKind(StrEnum):
    """The two archives of a simulation."""

    LOGS = "logs"
    RESULTS = "results"


class Archives(Message):
    """Names of the archives stored in the experiment.

    None: nothing to store. `PENDING`: kept safe by the launcher until the Storage Server takes it.
    """

    logs: str | None = None
    results: str | None = None

    def of(self, kind: ArchiveKind) -> str | None:
        """The name of one of them."""
        return self.logs if kind is ArchiveKind.LOGS else self.results


class LifecycleMessage(Message):
    """A transition of a simulation.

    A mirror ignores what is older than what it knows: a message counts when its `seq` is larger than the last one's.
    """

    source_node: str
    """Who says it."""
    source_state: SimulationState
    event: SimulationEvent
    target_state: SimulationState
    incarnation: str = ""
    """The simulation server's start, a uuid."""
    seq: int = Field(0, ge=0)
    """Counts up within a simulation."""
    time: FiniteFloat = Field(default_factory=time.time)
    """When, in seconds since 1970."""
    reason: str | None = None
    """Why it failed, or was stopped by somebody else than its owner."""
    logs: str | None = None
    results: str | None = None
    """Of a final state: as in `Archives`."""


# -- presence --------------------------------------------------------------------------------------------------------


class ServerPresence(Message):
    """Whether a simulation server is connected."""

    online: bool
    simulation_id: int | None = None
    """Of the simulation that it runs, null when it waits for one, and in a last will."""


class LauncherPresence(Message):
    """Whether a launcher is connected, and what it can take."""

    online: bool
    capacity: int = Field(0, ge=0)
    """How many simulations it takes at once."""
    running: int = Field(0, ge=0)
    """How many it has now."""
    labels: list[str] = Field(default_factory=list)
    """What this machine has that others may not."""
    free_cores: FiniteFloat | None = None
    """Those that no simulation has asked for."""
    free_memory_mb: int | None = None
    """What no simulation has asked for, or what is really free when that is less."""
    free_gpus: int | None = None
    """Those that no simulation has asked for. Null, like cores and memory, where a cluster gives them out."""
    version: str = ""
    instance: str = ""
    """Tells it from any other launcher that was given the same name, and from itself before a restart."""


# -- requests and their answers --------------------------------------------------------------------------------------


class Request(Message):
    """Something asked over the bus."""

    deadline: FiniteFloat
    """In seconds since 1970: afterwards the asker has given up, and the request must not be carried out any more."""
    reply_to: str = Field("", max_length=1000, pattern=r"^[^+#\x00]*$")
    """The topic of the answers. An MQTT 5 client may name it in the property Response Topic instead."""
    correlation: str = ""
    """Repeated in each answer; in the property Correlation Data where the request had it there."""
    request_id: Annotated[str, BeforeValidator(tracing.request_id_in)] = ""
    """Of the HTTP request that this goes back to, for logs. What cannot be one counts as none."""
    traceparent: Annotated[str, BeforeValidator(tracing.traceparent_in)] = ""
    """The trace that it belongs to (W3C Trace Context). What cannot be one counts as none."""

    @property
    def is_late(self) -> bool:
        """Whether the asker has given up."""
        return time.time() > self.deadline


class CommandEvent(StrEnum):
    """What a gateway may ask of a simulation."""

    STARTED = "started"
    PAUSED = "paused"
    STOPPED = "stopped"
    RESET = "reset"
    STEP = "step"


class Command(Request):
    """A lifecycle command to a simulation server."""

    event: CommandEvent
    iterations: int = Field(1, ge=1)
    """Of a step: how many of the smallest timesteps."""
    unless_changed_since: FiniteFloat | None = None
    """In seconds since 1970: when the simulation has changed its state since then it is not carried out. So it is with
    what asks for the state that is known already: its asker was told so, and others may have asked for another one."""


class Limits(Message):
    """What a simulation may use at most; null for as much as its launcher allows. The stricter of both counts."""

    real_time: FiniteFloat | None = Field(None, gt=0, alias="realTime")
    """Seconds for which it is `started`, before a reset and after it."""
    simulated_time: FiniteFloat | None = Field(None, gt=0, alias="simulatedTime")
    """Simulated seconds since its beginning or the last reset."""
    memory_mb: int | None = Field(None, gt=0, alias="memoryMB")
    """Of all its processes together, in 2**20 bytes."""
    cpu_time: FiniteFloat | None = Field(None, gt=0, alias="cpuTime")
    """Seconds of a core, of all its processes together."""
    processes: int | None = Field(None, gt=0)
    """At once, its server included."""
    disk_mb: int | None = Field(None, gt=0, alias="diskMB")
    """The size of its folder with the experiment, results and logs, in 10**6 bytes."""


class Wishes(Message):
    """What its owner asks for a simulation, beyond the experiment."""

    labels: list[str] = Field(default_factory=list)
    """What its launcher has to have."""
    cores: FiniteFloat = Field(0.0, ge=0)
    """Kept for it on its launcher's machine, as is the memory. One that asks for none counts as a simulation only."""
    memory_mb: int = Field(0, ge=0)
    gpus: int = Field(0, ge=0)
    """Of a cluster."""
    time_limit: FiniteFloat | None = Field(None, gt=0)
    """For how many seconds a cluster gives it a place; None for what is usual there."""
    partition: str = ""
    """Of a cluster; "" for the usual one."""
    account: str = ""
    """That a cluster is to charge; "" for the usual one."""
    real_time_factor: FiniteFloat | None = Field(None, ge=0)
    """The most simulated seconds in a second of real time, 0 for no limit; None for what its configuration says."""
    limits: Limits = Limits()
    """Stricter ones than its launcher's own."""


class Launch(Request):
    """All that a launcher needs to launch a simulation. Repeated for the same simulation it changes nothing."""

    simulation_id: int = Field(ge=0)
    experiment_id: str
    configuration: str
    main_script: str
    owner: str
    sealed_token: str = ""
    """The owner's bearer token, encrypted: the bus is public."""
    wishes: Wishes = Wishes()
    instance: str = ""
    """Of the launcher that is meant, from its presence: only that one takes it. Any of that name when empty."""

    @property
    def context(self) -> tracing.Context:
        """On whose behalf all is done that comes of it."""
        return tracing.Context(self.request_id, self.traceparent, self.simulation_id, self.owner)


class Collect(Request):
    """Asks a launcher to put the logs or results so far into the experiment, for a gateway to fetch."""

    simulation_id: int
    kind: ArchiveKind


class Inquiry(Request):
    """Asks a launcher how its machine is."""


class LauncherHealth(Message):
    """How a launcher and its machine are."""

    time: FiniteFloat
    """On its clock when it answered, in seconds since 1970."""
    version: str
    """Of the backend."""
    python: str
    """The interpreter's version."""
    free_disk: int = Field(ge=0)
    """Bytes left where its data directory is."""
    spooled: int = Field(ge=0)
    """How many simulations have archives that wait for the Storage Server."""


class Refusal(StrEnum):
    """Why a request was not carried out."""

    FULL = "full"
    """No room for another simulation now."""
    INVALID = "invalid"
    """The state does not allow it."""
    UNKNOWN = "unknown"
    """The receiver does not know the simulation."""
    STORAGE = "storage"
    """The Storage Server could not be reached."""
    FAILED = "failed"
    """It was tried and went wrong."""


class Reply(Message):
    """An answer. The first one only acknowledges; one with a `state`, `archive`, `health` or `error` is the last."""

    correlation: str = ""
    """The request's."""
    accepted: bool = True
    state: SimulationState | None = None
    incarnation: str | None = None
    seq: int | None = None
    archive: str | None = None
    """The name of the file in the experiment that was asked for."""
    health: LauncherHealth | None = None
    """Of a launcher that was asked for it."""
    error: str | None = None
    refusal: Refusal | None = None

    @property
    def is_last(self) -> bool:
        """Whether no further answer follows."""
        return any(part is not None for part in (self.state, self.archive, self.health, self.error))
