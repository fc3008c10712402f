"""What a gateway counts for Prometheus, and the route where it is read. `docs/metrics.md` explains every figure."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http import HTTPStatus
from itertools import accumulate
from typing import Any, Final

from flask import Response, request
from flask_openapi3.blueprint import APIBlueprint
from flask_openapi3.models.tag import Tag
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from nrp_common.bus import Bus
from nrp_common.errors import BusUnavailable, CommandRefused, CommandTimeout, InvalidTransition, SimulationFinal
from nrp_common.messages import CommandEvent
from nrp_common.metrics import COMMAND_BUCKETS_S, LAUNCH_BUCKETS_S, PATH, bus_figures, is_authorised, new_registry
from nrp_gateway.bodies import ErrorBody
from nrp_gateway.catalogue import Catalogue, SimulationRecord
from nrp_gateway.errors import NoRoom, RequestError, Unreachable
from nrp_gateway.mirror import Mirror
from nrp_gateway.presences import Presences
from nrp_gateway.settings import Authentication, GatewaySettings

REQUEST_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 25.0)
"""From a read out of memory to a launch that is answered although it is not ready, in seconds."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"})
"""Those that are told apart: clients may send any word in their place."""

OTHER: Final = "other"

_Alike = tuple[str, ...]
"""Method, route and class of status of requests that are counted together."""

_OUTCOMES: Final[dict[type[Exception], str]] = {
    InvalidTransition: "refused",
    SimulationFinal: "refused",
    CommandRefused: "refused",
    NoRoom: "refused",
    CommandTimeout: "timeout",
    BusUnavailable: "unreachable",
    Unreachable: "unreachable",
}


class MayNotScrape(RequestError):
    """The figures are for who presents NRP_METRICS_TOKEN as a bearer token."""

    status = HTTPStatus.UNAUTHORIZED


class RequestDurations(Collector):
    """The durations of HTTP requests.

    Each thread counts for itself: at thousands of requests a second they would wait for each other's locks.
    """

    def __init__(self) -> None:
        self._by_thread: dict[int, dict[_Alike, list[float]]] = {}  # for each bucket how many, and at the end their sum

    def note(self, method: str, route: str | None, status_class: str, duration_s: float) -> None:
        """Count a request that was answered.

        Args:
            method: as the client gave it.
            route: as it is registered, None when there is none.
            status_class: the first digit of the answer's status.
            duration_s: in seconds.
        """
        try:
            counts = self._by_thread[threading.get_ident()][method, route or OTHER, status_class]
        except KeyError:
            counts = self._begin(method if method in METHODS else OTHER, route or OTHER, status_class)
        counts[bisect_left(REQUEST_BUCKETS_S, duration_s)] += 1
        counts[-1] += duration_s

    def _begin(self, *alike: str) -> list[float]:
        counted = self._by_thread.setdefault(threading.get_ident(), {})
        return counted.setdefault(alike, [0.0] * (len(REQUEST_BUCKETS_S) + 2))

    def collect(self) -> Iterator[Metric]:
        """The figure as it is now."""
        family = HistogramMetricFamily(
            "nrp_http_request_duration_seconds",
            "HTTP requests until their answer begins.",
            labels=["method", "route", "status"],
        )
        totals: dict[_Alike, list[float]] = {}
        for counted in self._by_thread.copy().values():
            for alike, counts in counted.copy().items():
                before = totals.get(alike, [0.0] * len(counts))
                totals[alike] = [one + other for one, other in zip(before, counts, strict=True)]
        for (method, route, status_class), (*counts, total) in totals.items():
            bounds = [*map(floatToGoString, REQUEST_BUCKETS_S), "+Inf"]
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([method, route, f"{status_class}xx"], buckets, total)
        yield family


class GatewayMetrics:
    """The figures of one gateway. Usable from several threads.

    Attributes:
        registry: of all figures.
        requests: those of HTTP requests.
    """

    def __init__(self) -> None:
        self.registry = new_registry()
        self.requests = RequestDurations()
        self.registry.register(self.requests)
        self._launches = Counter(
            "nrp_launches",
            "Launches asked for, by what became of them: the state answered, or why there was none.",
            ["outcome"],
            registry=self.registry,
        )
        self._launch_phases = Histogram(
            "nrp_launch_phase_duration_seconds",
            "Phases of a launch, those that this process sees.",
            ["phase"],
            buckets=LAUNCH_BUCKETS_S,
            registry=self.registry,
        )
        self._commands = Histogram(
            "nrp_command_duration_seconds",
            "Commands to simulations until the state was reached, or not.",
            ["event", "outcome"],
            buckets=COMMAND_BUCKETS_S,
            registry=self.registry,
        )

    def watch(
        self, bus: Bus, mirror: Mirror, presences: Presences, catalogue: Catalogue, queue_length: Callable[[], int]
    ) -> None:
        """Tell of these parts, too."""
        self.registry.register(_Picture(bus, mirror, presences, catalogue, queue_length))

    # -- what is done --------------------------------------------------------------------------------------------------

    def launch(self, launch: Callable[[], SimulationRecord]) -> SimulationRecord:
        """Carry out a launch, and count what became of it."""
        try:
            record = launch()
        except Exception as error:
            self._launches.labels(_outcome(error)).inc()
            raise
        self._launches.labels("queued" if record.is_queued else record.state.value).inc()
        return record

    @contextmanager
    def launch_phase(self, phase: str) -> Iterator[None]:
        """Count what the block takes as a phase of a launch."""
        with self._launch_phases.labels(phase).time():
            yield

    def note_turn(self, waited_s: float) -> None:
        """Count a launch that a launcher took after it waited in the queue for so many seconds."""
        self._launch_phases.labels("queue").observe(max(0.0, waited_s))

    @contextmanager
    def command(self, event: CommandEvent) -> Iterator[None]:
        """Count what the block takes as a command that is carried out."""
        began = time.perf_counter()
        outcome = "error"
        try:
            yield
            outcome = "reached"
        except Exception as error:
            outcome = _outcome(error)
            raise
        finally:
            self._commands.labels(event.value, outcome).observe(time.perf_counter() - began)


class _Picture(Collector):
    """What the gateway's parts know anyway, read when somebody asks."""

    def __init__(
        self, bus: Bus, mirror: Mirror, presences: Presences, catalogue: Catalogue, queue_length: Callable[[], int]
    ) -> None:
        self._bus = bus
        self._mirror = mirror
        self._presences = presences
        self._catalogue = catalogue
        self._queue_length = queue_length

    def collect(self) -> Iterator[Metric]:
        """The figures as they are now."""
        yield from bus_figures(self._bus, {"gateway": self._bus.counts})
        states = GaugeMetricFamily(
            "nrp_simulations", "Unfinished simulations, and those that ended in the last day.", labels=["state"]
        )
        for state, count in self._mirror.count_by_state().items():
            states.add_metric([state.value], count)
        yield states
        launchers, capacity, running = self._presences.totals()
        yield GaugeMetricFamily("nrp_launchers", "Launchers that are connected.", launchers)
        yield GaugeMetricFamily("nrp_capacity", "Simulations that all of them take at once.", capacity)
        yield GaugeMetricFamily("nrp_running", "Simulations that they have now.", running)
        yield GaugeMetricFamily(
            "nrp_launch_queue_length", "Launches that wait for room on a launcher.", self._queue_length()
        )
        yield GaugeMetricFamily(
            "nrp_unwritten_reports", "Reports of simulations not in the catalogue yet.", self._mirror.unwritten
        )
        yield CounterMetricFamily(
            "nrp_catalogue_errors", "Transactions that the catalogue's database failed.", self._catalogue.failures
        )


def create_blueprint(registry: CollectorRegistry, settings: GatewaySettings) -> APIBlueprint:
    """The route of the figures.

    They name nobody, but tell how much is done here: with authentication they are for who has the token.
    """
    blueprint = APIBlueprint("metrics", __name__)
    token = settings.metrics_token.get_secret_value()
    is_open = not token and settings.authentication is Authentication.OFF
    text: dict[Any, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}

    @blueprint.get(
        PATH,
        tags=[Tag(name="service")],
        responses={HTTPStatus.OK: text, HTTPStatus.UNAUTHORIZED: ErrorBody},
        security=[{"token": []}],
    )
    def get_metrics() -> Response:
        """Figures for Prometheus. With authentication they are for who presents NRP_METRICS_TOKEN."""
        if not is_open and not (token and is_authorised(request.headers.get("Authorization"), token)):
            raise MayNotScrape
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(registry), content_type=content_type)

    return blueprint


def _outcome(error: Exception) -> str:
    return next((outcome for kind, outcome in _OUTCOMES.items() if isinstance(error, kind)), "error")
