"""The connection to a NEST Server: one source after the other, executed there and answered."""

from __future__ import annotations

import http.client
import json
import re
import select
import socket
from contextlib import suppress
from typing import Any, NamedTuple

CONNECTING_S = 5.0
"""How long a connection to a server may take to be made, in seconds."""

SILENT_S = 20
PROBE_S = 5
PROBES = 4
"""A machine that has said nothing for so many seconds is probed so often, in such intervals, before it is given up."""

LONGEST_QUOTE = 300
"""How many characters of an unexpected answer are told."""


class Executed(NamedTuple):
    """What a source has led to.

    Attributes:
        data: the variable that was asked for, None when the source did not set it.
        printed: what the source printed.
    """

    data: Any
    printed: str


class NestServerLost(Exception):
    """A NEST Server cannot be reached any more."""


class NestServerRefused(Exception):
    """A NEST Server does not do what it is asked; the message says how to have it do that, where that is known."""


class Connection:
    """A connection to a NEST Server, made when it is first used, and again when the server has closed it.

    Args:
        host: the server's host.
        port: the server's port.
        token: its access token, "" for none.
        timeout_s: how long it may be silent while it executes a source, 0 for any time.
    """

    def __init__(self, host: str, port: int, token: str = "", timeout_s: float = 0) -> None:
        self.server = f"NEST Server at {host}:{port}"
        self._address = (host, port)
        self._timeout_s = timeout_s
        headers = [f"Host: {host}:{port}", "Content-Type: application/json"]
        if token:
            headers.append(f"NESTServerAuth: {token}")
        self._head = "\r\n".join(["POST /exec HTTP/1.1", *headers, "Content-Length: "]).encode()
        self._socket: socket.socket | None = None
        self._is_waiting = False  # for an answer

    def execute(self, source: str, variable: str) -> Executed:
        """Have a source executed; raises as `begin` and `finish`."""
        self.begin(source, variable)
        return self.finish()

    def begin(self, source: str, variable: str) -> None:
        """Have a source executed; what became of `variable` is what `finish` returns.

        Raises:
            NestServerLost: the server cannot be reached.
        """
        if self._is_waiting:  # for an answer that nobody asked for any more, because the simulation was interrupted
            self.close()
        body = json.dumps({"source": source, "return": variable}).encode()
        self._is_waiting = True
        try:
            # In one piece, so that the server is not woken twice.
            self._connected().sendall(b"%b%d\r\n\r\n%b" % (self._head, len(body), body))
        except OSError as error:
            raise self._lost(error) from None

    def finish(self) -> Executed:
        """Wait until the source begun last is executed.

        Raises:
            NestServerLost: the server has gone, or did not answer in time.
            NestServerRefused: it will not execute sources, or is no NEST Server.
        """
        assert self._socket is not None
        response = http.client.HTTPResponse(self._socket, method="POST")
        try:
            response.begin()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._lost(error) from None
        finally:
            response.close()
        self._is_waiting = False
        if response.will_close:
            self.close()
        return self._understood(response.status, body)

    def close(self) -> None:
        """Close it; the server goes on with what it is doing."""
        self._is_waiting = False
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connected(self) -> socket.socket:
        if self._socket is not None and select.select([self._socket], [], [], 0)[0]:  # it was closed by the server
            self._socket.close()
            self._socket = None
        if self._socket is None:
            made = socket.create_connection(self._address, CONNECTING_S)
            made.settimeout(self._timeout_s or None)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (("TCP_KEEPIDLE", SILENT_S), ("TCP_KEEPINTVL", PROBE_S), ("TCP_KEEPCNT", PROBES)):
                with suppress(AttributeError):  # not every system has them
                    made.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
            self._socket = made
        return self._socket

    def _lost(self, error: Exception) -> NestServerLost:
        was_connected = self._socket is not None
        self.close()
        if isinstance(error, http.client.RemoteDisconnected | ConnectionResetError | BrokenPipeError):
            return NestServerLost(f"{self.server} has gone: it closed the connection without an answer")
        if isinstance(error, TimeoutError) and was_connected:
            return NestServerLost(
                f"{self.server} has not answered for {self._timeout_s:g} s, the engine's EngineCommandTimeout"
            )
        if isinstance(error, OSError):
            return NestServerLost(f"{self.server} cannot be reached: {error.strerror or error}")
        return NestServerLost(f"{self.server} answers what is no HTTP: {error!r}")

    def _understood(self, status: int, body: bytes) -> Executed:
        text = body.decode(errors="replace")
        if status == http.client.FORBIDDEN:
            raise NestServerRefused(f"{self.server} does not let the engine execute anything: {_reason(text)}")
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if status == http.client.OK and isinstance(answer, dict):
            return Executed(answer.get("data"), str(answer.get("stdout", "")))
        message = answer.get("message") if isinstance(answer, dict) else None
        raise NestServerRefused(f"{self.server} answered with status {status}: {message or _quoted(text)}")


def _reason(text: str) -> str:
    if "Unauthorized" in text:
        return (
            "it wants an access token, in the environment variable NEST_SERVER_ACCESS_TOKEN of the engine;"
            " or start it with NEST_SERVER_DISABLE_AUTH=true"
        )
    return "start it with NEST_SERVER_ENABLE_EXEC_CALL=true"


def _quoted(text: str) -> str:
    words = " ".join(re.sub(r"<[^>]*>", " ", text).split())
    return words if len(words) <= LONGEST_QUOTE else f"{words[:LONGEST_QUOTE]}..."
