"""The gRPC connection to a server of NRPCoreSim: its six calls, and what their failures mean."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # else it writes a line to the log whenever a script forks
import grpc

from nrp_common.errors import CallNotAllowed, CoreFailed, CoreLost, CoreNotReady
from nrp_simserver.cores.nrpcoresim import messages

CHECK_INTERVAL_S: Final = 0.05
"""Between two looks at whether a program that is not ready yet still lives."""

_OPTIONS: Final = [
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    # In milliseconds. gRPC's own first pause is a second, in which most programs get ready.
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 500),
]

_REFUSED: Final = "Can't process request"
"""What the server says to a call that its state does not allow."""

_GONE: Final = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})


class Connection:
    """A connection to one server.

    Args:
        address: `host:port`.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._channel = grpc.insecure_channel(address, options=_OPTIONS)
        self._methods = {
            name: self._channel.unary_unary(
                f"/NrpCore.NrpCore/{name}",
                request_serializer=request.SerializeToString,
                response_deserializer=response.FromString,
            )
            for name, (request, response) in messages.METHODS.items()
        }

    def wait_until_ready(self, timeout: float, check: Callable[[], None] = lambda: None) -> None:
        """Return when the server can be reached.

        Args:
            timeout: in seconds.
            check: called again and again meanwhile; raises when there is nothing to wait for.

        Raises:
            CoreNotReady: it cannot be reached in time.
        """
        deadline = time.monotonic() + timeout
        ready = grpc.channel_ready_future(self._channel)
        try:
            while not ready.done():
                check()
                if time.monotonic() > deadline:
                    raise CoreNotReady(f"NRPCoreSim could not be reached at {self._address} within {timeout:g} s")
                with suppress(grpc.FutureTimeoutError):
                    ready.result(CHECK_INTERVAL_S)
        finally:
            ready.cancel()

    def call(self, method: str, request: Any, timeout: float | None = None) -> Any:
        """Have the server carry out `method`; returns its response.

        In the main thread a signal handler that raises ends the call, but not what the server does. gRPC looks for
        signals every 0.2 s, and waits that long anew after each: signals that come more often are never seen.

        Raises:
            CallNotAllowed: the server's state does not allow it.
            CoreLost: the server is gone, or has not answered within `timeout` seconds.
            CoreFailed: the server answered with an error.
        """
        try:
            return self._methods[method](request, timeout=timeout)
        except grpc.RpcError as error:
            details = error.details() or error.code().name
            if _REFUSED in details:
                raise CallNotAllowed(details) from None
            if error.code() in _GONE:
                raise CoreLost(
                    f"NRPCoreSim at {self._address} does not answer any more ({method}: {details})"
                ) from None
            raise CoreFailed(f"NRPCoreSim failed in {method}: {details}") from None

    def close(self) -> None:
        """Disconnect."""
        self._channel.close()
