"""What requests and answers hold, and how a request's body is read.

Bodies are read by hand, whatever content type the request claims: NRP 4 clients send JSON under any, and expect the
error messages of NRP 4.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Final, NoReturn, TypeVar

from flask import request
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    RootModel,
    StrictBool,
    StrictInt,
    StrictStr,
    ValidationError,
    WithJsonSchema,
)
from pydantic_core import ErrorDetails
from werkzeug.exceptions import RequestEntityTooLarge

from nrp_common.errors import InvalidName
from nrp_common.experiment_files import LONGEST_NAME, checked_experiment_id, checked_path
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Limits, Wishes
from nrp_gateway.errors import BodyTooLarge, RequestError

LARGEST_BODY: Final = 1024 * 1024
"""In bytes. What is asked of the gateway is short; experiments go to the storage."""

DEFAULT_CONFIGURATION: Final = "simulation_config.json"
DEFAULT_MAIN_SCRIPT: Final = "main_script.py"

BodyT = TypeVar("BodyT", bound=BaseModel)


def _check_experiment_id(experiment_id: str) -> str:
    if "\\" in experiment_id or ".." in experiment_id:
        raise ValueError("must not contain '..' or a backslash")
    return _check_name(experiment_id, checked_experiment_id)


def _check_file_name(name: str) -> str:
    if "\\" in name:
        raise ValueError("must not contain a backslash")
    return _check_name(name, checked_path)


def _check_name(name: str, checked: Callable[[str], str]) -> str:
    try:
        return checked(name)
    except InvalidName as error:
        raise ValueError(str(error)) from error


def _check_text(text: str) -> str:
    if not text.isprintable():  # nor halves of surrogate pairs, which no database takes
        raise ValueError("must be printable text")
    return text


def _check_given(value: object) -> object:
    if value is None:
        raise ValueError("must be given")
    return value


def _or_default(default: str) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


def _listed(labels: object) -> object:
    return [] if labels is None else [labels] if isinstance(labels, str) else labels


def _check_label(label: str) -> str:
    if not label.isprintable() or "," in label or label != label.strip():
        raise ValueError("must be printable text without commas")
    return label


MOST_LABELS: Final = 20

Label = Annotated[StrictStr, Field(min_length=1, max_length=100), AfterValidator(_check_label)]
"""What a launcher has."""


ClusterName = Annotated[StrictStr, Field(max_length=100, pattern=r"^([A-Za-z0-9_][A-Za-z0-9_.+:-]*)?$")]
"""What a cluster has a name for."""


class ResourcesBody(BaseModel):
    """What a simulation asks of a machine, or of a cluster. The last four only clusters have."""

    model_config = ConfigDict(extra="forbid")

    cores: FiniteFloat = Field(0.0, ge=0, le=10_000)
    memory_mb: StrictInt = Field(0, alias="memoryMB", ge=0, le=2**30)
    gpus: StrictInt = Field(0, ge=0, le=1000)
    time_limit: Annotated[float, Field(strict=True, gt=0, le=10**9, allow_inf_nan=False)] | None = Field(
        None, alias="timeLimit", description="Seconds of real time after which its place in the cluster is taken away."
    )
    partition: ClusterName = Field("", description="Of the cluster.")
    account: ClusterName = Field("", description="That the cluster is to charge.")


Seconds = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
Count = Annotated[StrictInt, Field(gt=0, le=2**30)]


class LimitsBody(BaseModel):
    """What a simulation may use at most. It fails when it uses more."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    real_time: Seconds | None = Field(
        None, alias="realTime", description="Seconds for which it is `started`, before a reset and after it."
    )
    simulated_time: Seconds | None = Field(
        None, alias="simulatedTime", description="Simulated seconds since its beginning or the last reset."
    )
    memory_mb: Count | None = Field(None, alias="memoryMB", description="Of all its processes together.")
    cpu_time: Seconds | None = Field(
        None, alias="cpuTime", description="Seconds of a core, of all its processes together."
    )
    processes: Count | None = Field(None, description="At once, its server included.")
    disk_mb: Count | None = Field(
        None, alias="diskMB", description="The size of its folder with the experiment, results and logs."
    )


class LaunchBody(BaseModel):
    """What to launch."""

    experiment_id: Annotated[StrictStr, AfterValidator(_check_experiment_id)] = Field(
        alias="experimentID", min_length=1, max_length=LONGEST_NAME
    )
    configuration: Annotated[StrictStr, AfterValidator(_check_file_name), _or_default(DEFAULT_CONFIGURATION)] = Field(
        DEFAULT_CONFIGURATION, alias="experimentConfiguration", min_length=1, max_length=LONGEST_NAME
    )
    main_script: Annotated[StrictStr, AfterValidator(_check_file_name), _or_default(DEFAULT_MAIN_SCRIPT)] = Field(
        DEFAULT_MAIN_SCRIPT, alias="mainScript", min_length=1, max_length=LONGEST_NAME
    )
    context_id: Annotated[StrictStr, AfterValidator(_check_text)] | None = Field(
        None, alias="ctxId", max_length=LONGEST_NAME
    )
    real_time_factor: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = Field(
        None,
        alias="realTimeFactor",
        description="The most simulated seconds in a second of real time, 0 for no limit; without it what the"
        " configuration says.",
    )
    launcher: Annotated[list[Label], BeforeValidator(_listed)] = Field(
        default_factory=list,
        max_length=MOST_LABELS,
        description="What the launcher has to have: labels such as `gpu`, or its name. Text, or a list of texts.",
    )
    resources: ResourcesBody = Field(
        default_factory=ResourcesBody,
        description="Kept for this simulation on its launcher's machine, or asked of its launcher's cluster.",
    )
    limits: LimitsBody = Field(
        default_factory=LimitsBody, description="Stricter ones than the launcher's own; the stricter of both counts."
    )
    queue: StrictBool = Field(
        default=False,
        description="Wait when no launcher has room, or the owner has as many simulations as may be, instead of being"
        " refused with 409.",
    )
    state: Any = Field(None, description="Accepted, without effect.")
    private: Any = Field(None, description="Accepted, without effect.")

    def wishes(self) -> Wishes:
        """What is asked for beyond the experiment."""
        return Wishes(
            labels=self.launcher,
            cores=self.resources.cores,
            memory_mb=self.resources.memory_mb,
            gpus=self.resources.gpus,
            time_limit=self.resources.time_limit,
            partition=self.resources.partition,
            account=self.resources.account,
            real_time_factor=self.real_time_factor,
            limits=Limits(**self.limits.model_dump()),
        )


class StateBody(BaseModel):
    """The state to go to, whatever it is: what is no state has an answer of its own, later."""

    state: Annotated[
        Any, AfterValidator(_check_given), WithJsonSchema({"type": "string", "enum": ["paused", "started", "stopped"]})
    ]


class StepBody(BaseModel):
    """How far to go."""

    iterations: int = Field(1, ge=1, le=2**31 - 1, strict=True, description="Of the smallest timestep.")


class SimulationBody(BaseModel):
    """A simulation. Strangers get `STRANGERS_FIELDS` only."""

    model_config = ConfigDict(populate_by_name=True)

    state: SimulationState
    simulation_id: int = Field(alias="simulationID")
    configuration: str = Field("", alias="experimentConfiguration")
    main_script: str = Field("", alias="mainScript")
    owner: str
    creation_date: str = Field(alias="creationDate", description="ISO 8601, with microseconds and offset.")
    experiment_id: str = Field(alias="experimentID")
    context_id: str | None = Field(alias="ctxId")
    mqtt_prefix: str = Field(alias="MQTTPrefix")
    error: str | None = Field(None, description="Why it failed, or was stopped by somebody else than its owner.")
    logs: str | None = Field(
        None, description="The archive of its logs in the experiment, `pending` until the storage took it."
    )
    results: str | None = Field(None, description="The same of its results.")
    simulation_time: float = Field(0.0, alias="simulationTime", description="In seconds.")
    real_time: float = Field(0.0, alias="realTime", description="In seconds.")
    simulation_time_left: float = Field(
        0.0, alias="simulationTimeLeft", description="In seconds; 0 without a time-out."
    )
    launcher: str = Field("", description="The launcher that runs it, empty while it waits for one.")
    queue_position: int | None = Field(
        None,
        alias="queuePosition",
        description="How many launches it waits for, itself included; in a cluster's queue, how many jobs.",
    )
    queue_reason: str | None = Field(
        None, alias="queueReason", description="Why it waits in a cluster's queue, in the cluster's words."
    )
    limits: LimitsBody = Field(
        default_factory=LimitsBody, description="That its launch asked for; the launcher may have stricter ones."
    )
    stops_at: str | None = Field(
        None,
        alias="stopsAt",
        description="When it is going to be stopped, as it is idle, unless it gets a command. ISO 8601.",
    )


STRANGERS_FIELDS: Final = {
    "state", "simulation_id", "experiment_id", "owner", "creation_date", "context_id", "mqtt_prefix",
}  # fmt: skip
"""What those see of a simulation who may not view it: enough to find a free backend."""


class SimulationListBody(RootModel[list[SimulationBody]]):
    """Simulations, ascending by id."""


class StateAnswer(BaseModel):
    """The state that was reached."""

    state: SimulationState


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    data: str | None = None


class VersionBody(RootModel[dict[str, str]]):
    """Versions by the names of packages."""


class HealthBody(BaseModel):
    """The gateway lives."""

    healthy: bool = True


class ReadyBody(BaseModel):
    """Whether simulations can be launched; each part is `ok`, or says what is missing."""

    ready: bool
    broker: str
    catalogue: str
    storage: str
    launcher: str


def read_body(body_type: type[BodyT], *, may_be_empty: bool = False) -> BodyT:
    """The current request's body.

    Raises:
        BodyTooLarge: it is larger than `LARGEST_BODY`.
        RequestError: it is no JSON object, lacks a field or holds something else than `body_type` says.
    """
    request.max_content_length = LARGEST_BODY
    try:
        data = request.get_data()
    except RequestEntityTooLarge as error:
        raise BodyTooLarge(f"The body is larger than {LARGEST_BODY} bytes") from error
    return parse_body(data or b"{}" if may_be_empty else data, body_type)


def parse_body(data: bytes, body_type: type[BodyT]) -> BodyT:
    """`data` as `body_type`.

    Raises:
        RequestError: as in `read_body`.
    """
    try:
        content = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError("The body is not JSON") from error
    if not isinstance(content, dict):
        raise RequestError("The body is not a JSON object")
    try:
        return body_type.model_validate(content)
    except ValidationError as error:
        raise RequestError(describe_fault(error.errors(include_url=False))) from error


def describe_fault(faults: Iterable[ErrorDetails]) -> str:
    """The first of the faults that pydantic found, in words for a client."""
    fault = next(iter(faults))
    field = ".".join(str(step) for step in fault["loc"] if isinstance(step, str))
    if fault["type"] == "missing" or fault["input"] is None:
        return f"{field} not given."
    message = fault["msg"].removeprefix("Value error, ")
    return f"{field}: {message[:1].lower()}{message[1:]}"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
