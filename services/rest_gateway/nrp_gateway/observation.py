"""What is noted of every HTTP request: its id and its trace, for logs and for the bus, and how long it took.

Around the application rather than in it: this way it costs a few microseconds a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Final

from werkzeug.wrappers import Request

from nrp_common import tracing
from nrp_gateway.metrics import RequestDurations

REQUEST_ID: Final = "X-Request-ID"
"""A header of request and answer. One that the client gave is kept, when it can be such an id."""

TRACE: Final = "traceparent"
"""The header of W3C Trace Context. A gateway records no spans of its own, so it hands on the caller's as it is."""

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def observed(app: WsgiApp, durations: RequestDurations) -> WsgiApp:
    """`app`, with every request noted."""
    given_id, given_trace = (f"HTTP_{name.upper().replace('-', '_')}" for name in (REQUEST_ID, TRACE))

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = time.perf_counter()
        request_id = tracing.request_id_in(environ.get(given_id)) or tracing.new_request_id()
        tracing.enter(tracing.Context(request_id, tracing.traceparent_in(environ.get(given_trace))))
        answered, route = "500", None

        def start(status: str, headers: list[tuple[str, str]], *error: Any) -> Any:
            nonlocal answered, route
            answered, route = status, _route(environ)
            return start_response(status, [*headers, (REQUEST_ID, request_id)], *error)

        try:
            return app(environ, start)
        finally:
            durations.note(environ["REQUEST_METHOD"], route, answered[0], time.perf_counter() - began)
            tracing.enter()

    return answer


def _route(environ: dict[str, Any]) -> str | None:
    """The route as it is registered, None when there is none at that path. Known while the application answers."""
    request: Request | None = environ.get("werkzeug.request")  # Werkzeug's own, documented entry
    rule = getattr(request, "url_rule", None)
    return None if rule is None else str(rule.rule)
