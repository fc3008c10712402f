"""The gateway: whether it answers, and finds what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import requests

from nrp_cli.doctor.findings import Finding
from nrp_cli.doctor.targets import Targets

TIMEOUT_S: Final = 5.0

SLOW_S: Final = 0.2

CLOCKS_AGREE_S: Final = 2.5
"""HTTP tells times in whole seconds."""

ADVICE: Final = {
    "broker": "The gateway looks for it where NRP_MQTT_BROKER_ADDRESS says; see what is found of the broker here.",
    "catalogue": "See that its disk has room and may be written, or that PostgreSQL runs (NRP_CATALOGUE_URL).",
    "storage": "See that the Storage Server runs (NRP_STORAGE_URL), or that the folder of experiments is there.",
    "launcher": "Start one with `nrp launcher`, and see in its log that it reaches the same broker (with the same"
    " NRP_MQTT_PREFIX).",
}
"""What to do about a part that is not ready."""


@dataclass
class GatewayView:
    """What a gateway says.

    Attributes:
        answers: whether there is one.
        version: of the backend, "" when it does not say.
        parts: by part that it needs, `ok` or what is missing.
        simulations: the ids of those that it lists, None when it does not.
        knows: whether it knows a simulation, asked now.
        keeps_experiments: whether it is the Storage Server, too.
        findings: what is found of it.
    """

    answers: bool = False
    version: str = ""
    parts: dict[str, str] = field(default_factory=dict)
    simulations: set[int] | None = None
    knows: Callable[[int], bool] = lambda _: False
    keeps_experiments: bool = False
    findings: list[Finding] = field(default_factory=list)


def look_at_gateway(targets: Targets) -> GatewayView:
    """Ask the gateway what there is to ask."""
    view = GatewayView()
    with _session(targets) as session:
        view.findings += _findings(session, targets, view)
    return view


def _session(targets: Targets) -> requests.Session:
    session = requests.Session()
    session.trust_env = not targets.gateway_is_local  # a proxy leads out of the machine
    if targets.token:
        session.headers["Authorization"] = f"Bearer {targets.token}"
    return session


def _findings(session: requests.Session, targets: Targets, view: GatewayView) -> Iterator[Finding]:
    began, asked_at = time.perf_counter(), time.time()
    try:
        answer = session.get(f"{targets.url}/health", timeout=TIMEOUT_S)
    except requests.RequestException as error:
        yield _unreachable(targets, error)
        return
    took_s, answered_at = time.perf_counter() - began, time.time()
    if _json(answer) != {"healthy": True}:
        yield Finding.problem(
            "REST API",
            f"What answers at {targets.url} is no gateway (status {answer.status_code})",
            "Another program has the port: name the gateway's address by --url or NRP_URL.",
        )
        return
    view.answers = True
    if took_s < SLOW_S:
        yield Finding.ok("REST API", f"{targets.url}, answers in {took_s * 1e3:.0f} ms")
    else:
        yield Finding.warning(
            "REST API",
            f"{targets.url} takes {took_s * 1e3:.0f} ms to answer",
            "Its machine is busy: see nrp_http_request_duration_seconds at /metrics, and what else runs there.",
        )
    yield from _version(session, targets, view)
    yield from _clock(answer, (asked_at + answered_at) / 2)
    yield from _parts(session, targets, view)
    view.knows = lambda simulation_id: _knows(targets, simulation_id)
    with suppress(requests.RequestException):
        view.keeps_experiments = session.get(f"{targets.url}/storage/experiments", timeout=TIMEOUT_S).ok
        listed = _json(session.get(f"{targets.url}/simulation", timeout=TIMEOUT_S))
        if isinstance(listed, list):
            view.simulations = {each["simulationID"] for each in listed}


def _unreachable(targets: Targets, error: requests.RequestException) -> Finding:
    refused = isinstance(error, requests.ConnectionError) and "refused" in str(error)
    reason = "nothing listens there" if refused else f"no answer ({type(error).__name__})"
    name_it = "One that is elsewhere is named by --url or NRP_URL."
    if targets.stack is not None and not targets.stack.is_up:
        return Finding.problem(
            "REST API",
            f"There is no gateway at {targets.url}: {reason}. The `nrp up` that used {targets.data} was killed",
            f"Start it again: `nrp up --data {targets.data}`. {name_it}",
        )
    return Finding.problem(
        "REST API", f"There is no gateway at {targets.url}: {reason}", f"Start everything with `nrp up`. {name_it}"
    )


def _version(session: requests.Session, targets: Targets, view: GatewayView) -> Iterator[Finding]:
    with suppress(requests.RequestException):
        versions = _json(session.get(f"{targets.url}/version", timeout=TIMEOUT_S))
        view.version = str(versions.get("nrp-backend", "")) if isinstance(versions, dict) else ""
    ours = version("nrp-backend")
    if view.version == ours:
        yield Finding.ok("version", view.version)
    else:
        yield Finding.warning(
            "version",
            f"It runs version {view.version or 'unknown'}, this command is of version {ours}",
            "Install the same version everywhere, then restart the services.",
        )


def _clock(answer: requests.Response, now: float) -> Iterator[Finding]:
    with suppress(KeyError, TypeError, ValueError):
        skew_s = parsedate_to_datetime(answer.headers["Date"]).timestamp() + 0.5 - now
        if abs(skew_s) < CLOCKS_AGREE_S:
            yield Finding.ok("clock", "agrees with this machine's")
        else:
            yield Finding.warning(
                "clock",
                f"The gateway's clock is {abs(skew_s):.0f} s {'ahead of' if skew_s > 0 else 'behind'} this machine's",
                "Have both keep time (chrony, systemd-timesyncd): commands carry a deadline.",
            )


def _parts(session: requests.Session, targets: Targets, view: GatewayView) -> Iterator[Finding]:
    try:
        parts = _json(session.get(f"{targets.url}/ready", timeout=2 * TIMEOUT_S))
    except requests.RequestException as error:
        parts = None
        reason = type(error).__name__
    else:
        reason = "it does not say"
    if not isinstance(parts, dict):
        yield Finding.problem("ready", f"Whether it is ready is not known: {reason}", "See the gateway's log.")
        return
    view.parts = {part: str(state) for part, state in parts.items() if part in ADVICE}
    missing = {part: state for part, state in view.parts.items() if state != "ok"}
    for part, state in missing.items():
        yield Finding.problem(f"its {part}", f"The gateway says: {state}", ADVICE[part])
    if not missing:
        yield Finding.ok("ready", "it finds broker, catalogue, storage and launcher")


def _knows(targets: Targets, simulation_id: int) -> bool:
    try:
        with _session(targets) as session:
            answer = session.get(f"{targets.url}/simulation/{simulation_id}", timeout=TIMEOUT_S)
    except requests.RequestException:
        return True  # as far as anybody can say
    return answer.status_code != HTTPStatus.NOT_FOUND


def _json(answer: requests.Response) -> Any:
    try:
        return answer.json()
    except requests.JSONDecodeError:
        return None
