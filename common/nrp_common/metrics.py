"""Figures for Prometheus that gateway and launcher have in common, and how they are served.

Each part counts in plain numbers where it works; they are read, and summed up, when somebody asks for the figures. No
label holds what users choose or what grows without end: no owner, experiment or simulation. `docs/metrics.md` explains
every figure.
"""

from __future__ import annotations

import hmac
import socket
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, Info, ProcessCollector, disable_created_metrics, make_wsgi_app
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from nrp_common.bus import Bus, BusCounts
from nrp_common.errors import SettingsError

PATH: Final = "/metrics"

READINESS_PATH: Final = "/ready"

COMMAND_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0)
"""From what the bus alone takes to what a gateway waits for at most, in seconds."""

LAUNCH_BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 600.0)
"""From a fork to what a Gazebo takes to initialise at most, in seconds."""

READING_TIMEOUT_S: Final = 10.0
"""How long a client of the launcher's port may take over its request."""

UNREADY: Final = "503 Service Unavailable"

WsgiApp = Callable[..., Iterable[bytes]]


def new_registry() -> CollectorRegistry:
    """A registry with what is told of every process: versions, memory, processor time, open files."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each, which nothing reads
    registry = CollectorRegistry(auto_describe=True)
    ProcessCollector(registry=registry)
    Info("nrp_build", "What runs here.", registry=registry).info({"version": version("nrp-backend")})
    return registry


def bus_figures(bus: Bus, counts: Mapping[str, BusCounts]) -> Iterator[Metric]:
    """What is counted of the bus.

    Args:
        bus: this process's connection.
        counts: what befell it, and those that this process tells of besides, by part, such as `gateway`.
    """
    yield GaugeMetricFamily(
        "nrp_bus_connected", "1 while there is a connection to the MQTT broker, else 0.", bus.is_connected
    )
    yield GaugeMetricFamily(
        "nrp_bus_unhandled_messages", "Messages that have arrived and wait to be handled.", bus.unhandled
    )
    reconnects = CounterMetricFamily(
        "nrp_bus_reconnects", "Connections to the MQTT broker after the first one.", labels=["part"]
    )
    dropped = CounterMetricFamily(
        "nrp_bus_dropped_messages",
        "Messages lost: out, that the broker never got; in, that arrived faster than they were handled.",
        labels=["part", "direction"],
    )
    for part, of_part in counts.items():
        reconnects.add_metric([part], of_part.reconnects)
        dropped.add_metric([part, "out"], of_part.dropped_outgoing)
        dropped.add_metric([part, "in"], of_part.dropped_incoming)
    yield reconnects
    yield dropped


# -- who may see them ------------------------------------------------------------------------------------------------


def is_authorised(authorization: str | None, token: str) -> bool:
    """Whether an `Authorization` header holds the token for the figures."""
    scheme, _, given = (authorization or "").partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


# -- a port of their own ---------------------------------------------------------------------------------------------


class MetricsServer:
    """Serves figures over HTTP, for a process that serves nothing else.

    Args:
        registry: of the figures.
        host: where to listen.
        port: 0 for any.
        token: what scrapers have to present, "" for nothing.
        is_ready: whether the process can do its work, which everybody is told.

    Attributes:
        port: where it listens.

    Raises:
        SettingsError: it cannot listen there.
    """

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, token: str = "", *, is_ready: Callable[[], bool]
    ) -> None:
        try:
            self._server = _Server(host, port, _answering(make_wsgi_app(registry), token, is_ready))
        except OSError as error:
            raise SettingsError(
                f"NRP_METRICS_HOST, NRP_METRICS_PORT: cannot listen at {host}:{port}: {error}"
            ) from error
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, host: str, port: int, app: WsgiApp) -> None:
        self.address_family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        super().__init__((host, port), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        """Without asking for the host's full name: a name server that is away would hold up the start."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0], self.server_address[1]  # type: ignore[assignment]
        self.setup_environ()


class _Handler(WSGIRequestHandler):
    timeout = READING_TIMEOUT_S

    def address_string(self) -> str:
        return str(self.client_address[0])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  its base's name
        pass  # a scrape every few seconds is no news


def _answering(figures: WsgiApp, token: str, is_ready: Callable[[], bool]) -> WsgiApp:
    """`figures` at `PATH`, for who has the token; at `READINESS_PATH` whether the process can do its work."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ.get("PATH_INFO")
        if path == READINESS_PATH:
            return say(start_response, "200 OK", "ready") if is_ready() else say(start_response, UNREADY, "not ready")
        if path != PATH:
            return say(start_response, "404 Not Found", f"The figures are at {PATH}")
        if token and not is_authorised(environ.get("HTTP_AUTHORIZATION"), token):
            return say(start_response, "401 Unauthorized", "Present NRP_METRICS_TOKEN as a bearer token")
        return figures(environ, start_response)

    def say(start_response: Callable[..., Any], status: str, text: str) -> list[bytes]:
        start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
        return [f"{text}\n".encode()]

    return answer
