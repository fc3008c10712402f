"""The REST face of simulations: every route but the storage's."""

from __future__ import annotations

from datetime import UTC, datetime
from http import HTTPStatus
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Final

from flask import Response, g, jsonify, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from nrp_common.errors import NRPError, SimulationFinal
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import ArchiveKind, CommandEvent, Status
from nrp_gateway.bodies import (
    STRANGERS_FIELDS,
    ErrorBody,
    HealthBody,
    LaunchBody,
    LimitsBody,
    ReadyBody,
    SimulationBody,
    SimulationListBody,
    StateAnswer,
    StateBody,
    StepBody,
    VersionBody,
    read_body,
)
from nrp_gateway.catalogue import LARGEST_ID, SimulationRecord
from nrp_gateway.errors import InvalidState, MayNotView, NotTheOwner, NotThere, SimulationNotFound
from nrp_gateway.gateway import Gateway
from nrp_gateway.identity import bearer_token

COMMANDS: Final = {
    "paused": CommandEvent.PAUSED,
    "started": CommandEvent.STARTED,
    "stopped": CommandEvent.STOPPED,
}
"""What clients may ask for; the other states are reached, not asked for."""

PACKAGES: Final = (
    "nrp-backend", "alembic", "flask", "flask-openapi3", "granian", "paho-mqtt", "pydantic", "sqlalchemy",
)  # fmt: skip
"""Whose versions `GET /version` tells."""

SIMULATIONS: Final = Tag(name="simulations", description="Launch simulations and rule them.")
SERVICE: Final = Tag(name="service", description="The gateway itself.")

_NOT_SEEN: Final = (HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE)
"""What every request about one simulation may be answered with."""

_NOT_DONE: Final = (*_NOT_SEEN, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.GATEWAY_TIMEOUT)

_ZIP: Final = {"content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}}}

Answer = type[BaseModel] | dict[Any, Any] | None


class SimulationPath(BaseModel):
    """Which simulation. Read by hand: what is no number names no simulation."""

    simulation_id: Annotated[str, WithJsonSchema({"type": "integer", "minimum": 0})]


def _split(states: object) -> object:
    return [part for each in states for part in str(each).split(",")] if isinstance(states, list) else states


class SimulationFilter(BaseModel):
    """Which simulations."""

    state: Annotated[list[SimulationState], BeforeValidator(_split)] = Field(
        default_factory=list, description="Only in one of these states; repeated, or separated by commas."
    )
    owner: str | None = Field(None, description="Only this user's.")
    experiment_id: str | None = Field(None, alias="experimentID", description="Only of this experiment.")
    limit: int | None = Field(None, ge=0, description="At most so many.")
    offset: int | None = Field(None, ge=0, description="Leave out the first so many.")

    @property
    def pages(self) -> bool:
        """Whether a page was asked for."""
        return self.limit is not None or self.offset is not None


def create_blueprint(gateway: Gateway, *, below_slots: bool = False) -> APIBlueprint:
    """The routes; below `/slot/<n>` when asked for."""
    blueprint = APIBlueprint(
        "slot" if below_slots else "root",
        __name__,
        url_prefix="/slot/<slot>" if below_slots else None,
        abp_responses={HTTPStatus.BAD_REQUEST: ErrorBody},
        abp_security=[{"token": []}],
        doc_ui=not below_slots,
    )
    if below_slots:

        @blueprint.url_value_preprocessor
        def take_slot(_endpoint: str | None, values: dict[str, Any] | None) -> None:
            assert values is not None
            g.slot = _checked_slot(values.pop("slot"), gateway)

    _add_simulation_routes(blueprint, gateway)
    _add_command_routes(blueprint, gateway)
    _add_service_routes(blueprint, gateway)
    return blueprint


# -- simulations -----------------------------------------------------------------------------------------------------


def _add_simulation_routes(blueprint: APIBlueprint, gateway: Gateway) -> None:
    @blueprint.post(
        "/simulation",
        tags=[SIMULATIONS],
        responses=_answers(
            SimulationBody,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.CONFLICT,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.SERVICE_UNAVAILABLE,
            success=HTTPStatus.CREATED,
        ),
        openapi_extensions=_documented(LaunchBody),
    )
    def launch() -> tuple[Response, HTTPStatus, dict[str, str]]:
        """Launch an experiment.

        Answered when the simulation is `paused`, that is ready, or `failed`, with the reason in `error`; after 25 s
        with one that is still `created`. The launch of an experiment that cannot run makes a failed simulation.
        With `queue` a launch that no launcher has room for waits for its turn: answered at once, `created`, with its
        `queuePosition`; owners take turns.
        """
        token = _token()
        user = gateway.callers.user(token)
        if user is None:
            raise MayNotView
        asked = read_body(LaunchBody)
        record = gateway.metrics.launch(lambda: gateway.launches.launch(asked, user, token, g.get("slot")))
        return jsonify(_body(record, gateway)), HTTPStatus.CREATED, {"Location": f"/simulation/{record.id}"}

    @blueprint.get("/simulation", tags=[SIMULATIONS], responses=_answers(SimulationListBody))
    def list_simulations(query: SimulationFilter) -> Response:
        """List simulations, ascending by id, to anybody.

        All that have not ended, and those that ended less than 24 h ago. Asked for by `state`, or by page, older ones
        are listed too. Who may not view a simulation sees its first fields only. A page is answered with the header
        `X-Total-Count`.
        """
        records = [each for each in _listed(query, gateway) if _matches(each, query)]
        answer_headers = {}
        if query.pages:
            answer_headers["X-Total-Count"] = str(len(records))
            first = query.offset or 0
            records = records[first : None if query.limit is None else first + query.limit]
        viewable = _viewable(records, gateway)
        answer = jsonify([_body(each, gateway, for_stranger=each.id not in viewable) for each in records])
        answer.headers.update(answer_headers)
        return answer

    @blueprint.get("/simulation/<simulation_id>", tags=[SIMULATIONS], responses=_answers(SimulationBody, *_NOT_SEEN))
    def get_simulation(path: SimulationPath) -> Response:
        """One simulation."""
        return jsonify(_body(_viewed(path, gateway), gateway))

    @blueprint.delete(
        "/simulation/<simulation_id>",
        tags=[SIMULATIONS],
        responses=_answers(None, *_NOT_SEEN, success=HTTPStatus.NO_CONTENT),
    )
    def delete_simulation(path: SimulationPath) -> tuple[str, HTTPStatus]:
        """Stop a simulation where it runs, and forget it.

        Its logs and results stay in the experiment. One that cannot be reached any more is forgotten all the same.
        """
        gateway.commands.remove(_owned(path, gateway))
        return "", HTTPStatus.NO_CONTENT

    @blueprint.get(
        "/simulation/<simulation_id>/logs",
        tags=[SIMULATIONS],
        responses=_answers(_ZIP, *_NOT_SEEN, HTTPStatus.GATEWAY_TIMEOUT),
    )
    def get_logs(path: SimulationPath) -> Response:
        """The logs of a simulation, zipped; so far, while it runs."""
        return _archive(_viewed(path, gateway), ArchiveKind.LOGS, gateway)

    @blueprint.get(
        "/simulation/<simulation_id>/results",
        tags=[SIMULATIONS],
        responses=_answers(_ZIP, *_NOT_SEEN, HTTPStatus.GATEWAY_TIMEOUT),
    )
    def get_results(path: SimulationPath) -> Response:
        """The files that a simulation made or changed, zipped; so far, while it runs."""
        return _archive(_viewed(path, gateway), ArchiveKind.RESULTS, gateway)


def _listed(query: SimulationFilter, gateway: Gateway) -> list[SimulationRecord]:
    listed = gateway.mirror.live_and_recent()
    if query.state or query.pages:
        known = {each.id for each in listed}
        states = query.state or list(SimulationState)
        older = gateway.catalogue.ended(states, owner=query.owner, experiment_id=query.experiment_id)
        listed = sorted([*listed, *(each for each in older if each.id not in known)], key=lambda each: each.id)
    slot = g.get("slot")
    return listed if slot is None else [each for each in listed if each.slot == slot]


def _matches(record: SimulationRecord, query: SimulationFilter) -> bool:
    return (
        (not query.state or record.state in query.state)
        and (query.owner is None or record.owner == query.owner)
        and (query.experiment_id is None or record.experiment_id == query.experiment_id)
    )


def _viewable(records: list[SimulationRecord], gateway: Gateway) -> set[int]:
    """The ids of those that the caller may view; none when nobody can say, as the list is for anybody."""
    token = _token()
    may_view: dict[str, bool] = {}
    viewable: set[int] = set()
    try:
        user = gateway.callers.user(token)
        if user is None:
            return viewable
        for record in records:
            if record.owner != user and record.experiment_id not in may_view:
                may_view[record.experiment_id] = gateway.callers.may_view(
                    token, record.experiment_id, refusal_may_be_old=True
                )
            if record.owner == user or may_view[record.experiment_id]:
                viewable.add(record.id)
    except NRPError:
        pass
    return viewable


def _archive(record: SimulationRecord, kind: ArchiveKind, gateway: Gateway) -> Response:
    name, content = gateway.archives.open(record, kind, _token())
    answer = Response(content, mimetype="application/zip")
    answer.headers.set("Content-Disposition", "attachment", filename=name.rpartition("/")[2])
    return answer


# -- commands --------------------------------------------------------------------------------------------------------


def _add_command_routes(blueprint: APIBlueprint, gateway: Gateway) -> None:
    @blueprint.get("/simulation/<simulation_id>/state", tags=[SIMULATIONS], responses=_answers(StateAnswer, *_NOT_SEEN))
    def get_state(path: SimulationPath) -> Response:
        """The state of a simulation."""
        return jsonify(state=_viewed(path, gateway).state)

    @blueprint.put(
        "/simulation/<simulation_id>/state",
        tags=[SIMULATIONS],
        responses=_answers(StateAnswer, *_NOT_DONE),
        openapi_extensions=_documented(StateBody),
    )
    def put_state(path: SimulationPath) -> Response:
        """Pause, start or stop a simulation; answered with the state that was really reached."""
        record = _unfinished(path, gateway)
        state = read_body(StateBody).state
        if not isinstance(state, str) or state not in COMMANDS:
            raise InvalidState(str(state))
        return jsonify(state=gateway.commands.carry_out(record, COMMANDS[state]))

    @blueprint.post(
        "/simulation/<simulation_id>/reset", tags=[SIMULATIONS], responses=_answers(StateAnswer, *_NOT_DONE)
    )
    def reset(path: SimulationPath) -> Response:
        """Bring a simulation back to time 0, paused; its script begins again from its top at the next start."""
        return jsonify(state=gateway.commands.carry_out(_unfinished(path, gateway), CommandEvent.RESET))

    @blueprint.post(
        "/simulation/<simulation_id>/step",
        tags=[SIMULATIONS],
        responses=_answers(StateAnswer, *_NOT_DONE),
        openapi_extensions=_documented(StepBody, required=False),
    )
    def step(path: SimulationPath) -> Response:
        """Advance a paused simulation by some of its smallest timesteps; answered when it is paused again."""
        record = _unfinished(path, gateway)
        iterations = read_body(StepBody, may_be_empty=True).iterations
        return jsonify(state=gateway.commands.carry_out(record, CommandEvent.STEP, iterations))


# -- the service -----------------------------------------------------------------------------------------------------


def _add_service_routes(blueprint: APIBlueprint, gateway: Gateway) -> None:
    versions = _versions()

    @blueprint.get("/version", tags=[SERVICE], responses=_answers(VersionBody))
    def get_version() -> Response:
        """The versions of the backend and of the packages that it is built on."""
        return jsonify(versions)

    @blueprint.get("/health", tags=[SERVICE], responses=_answers(HealthBody))
    def get_health() -> Response:
        """Whether the gateway lives."""
        return jsonify(HealthBody().model_dump())

    @blueprint.get(
        "/ready", tags=[SERVICE], responses=_answers(ReadyBody) | {HTTPStatus.SERVICE_UNAVAILABLE: ReadyBody}
    )
    def get_ready() -> tuple[Response, HTTPStatus]:
        """Whether simulations can be launched, and what is missing."""
        parts = gateway.readiness()
        ready = all(state == "ok" for state in parts.values())
        status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
        return jsonify(ReadyBody(ready=ready, **parts).model_dump()), status


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # run from a checkout that was not installed
            continue
    return found


# -- the caller and the simulation -----------------------------------------------------------------------------------


def _token() -> str | None:
    return bearer_token(request.headers.get("Authorization"))


def _found(path: SimulationPath, gateway: Gateway) -> SimulationRecord:
    digits = path.simulation_id
    is_id = digits.isascii() and digits.isdigit() and len(digits) <= len(str(LARGEST_ID))
    record = gateway.mirror.get(int(digits)) if is_id else None
    if (
        record is not None and record.state is SimulationState.CREATED
    ):  # another gateway may have heard that it is ready
        record = gateway.mirror.read_again(record.id)
    if record is None:
        raise SimulationNotFound
    return record


def _viewed(path: SimulationPath, gateway: Gateway) -> SimulationRecord:
    """The simulation, if the caller may view it."""
    record = _found(path, gateway)
    token = _token()
    user = gateway.callers.user(token)
    if user is None or (user != record.owner and not gateway.callers.may_view(token, record.experiment_id)):
        raise MayNotView
    return record


def _owned(path: SimulationPath, gateway: Gateway) -> SimulationRecord:
    """The simulation, if the caller owns it."""
    record = _found(path, gateway)
    if gateway.callers.user(_token()) != record.owner:
        raise NotTheOwner
    return record


def _unfinished(path: SimulationPath, gateway: Gateway) -> SimulationRecord:
    """The simulation, if the caller owns it and it has not ended."""
    record = _owned(path, gateway)
    if record.state.is_final:
        raise SimulationFinal
    return record


def _checked_slot(slot: str, gateway: Gateway) -> int:
    capacity = gateway.presences.capacity  # 0 while no launcher is there: then nobody knows
    is_number = slot.isascii() and slot.isdigit() and len(slot) < 10
    if not is_number or (capacity and int(slot) >= capacity):
        raise NotThere(f"There is no slot {slot[:20]}: the launchers that are connected have {capacity}")
    return int(slot)


# -- bodies ----------------------------------------------------------------------------------------------------------


def _body(record: SimulationRecord, gateway: Gateway, *, for_stranger: bool = False) -> dict[str, Any]:
    status = None if for_stranger else gateway.mirror.status(record.id)
    times = status or Status(state=record.state)
    node_queue = gateway.mirror.node_queue(record.id)
    if record.is_queued:
        position = gateway.launches.queue.position(record.id)
    else:
        position = node_queue.queue_position if node_queue is not None else None
    body = SimulationBody(
        state=record.state,
        simulation_id=record.id,
        configuration=record.configuration,
        main_script=record.main_script,
        owner=record.owner,
        creation_date=_iso(record.created_at),
        experiment_id=record.experiment_id,
        context_id=record.context_id,
        mqtt_prefix=gateway.topics.prefix,
        error=record.error,
        logs=record.logs,
        results=record.results,
        simulation_time=times.simulation_time,
        real_time=times.real_time,
        simulation_time_left=times.simulation_time_left,
        launcher=record.launcher,
        queue_position=position,
        queue_reason=node_queue.queue_reason if node_queue is not None else None,
        limits=LimitsBody(**record.wishes.limits.model_dump()),
        stops_at=None if (stops_at := gateway.mirror.stops_at(record.id)) is None else _iso(stops_at),
    )
    return body.model_dump(by_alias=True, include=STRANGERS_FIELDS if for_stranger else None)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone().isoformat(timespec="microseconds")


def _answers(
    body: Answer, *errors: HTTPStatus, success: HTTPStatus = HTTPStatus.OK
) -> dict[str | int | HTTPStatus, Answer]:
    """What to say in the OpenAPI document of a route's answers."""
    return {success: body, **dict.fromkeys(errors, ErrorBody)}


def _documented(body: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """What to say in the OpenAPI document of a body that is read by hand."""
    return {
        "requestBody": {"content": {"application/json": {"schema": body.model_json_schema()}}, "required": required}
    }
