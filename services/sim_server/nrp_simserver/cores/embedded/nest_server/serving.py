"""A NEST Server for one engine and nobody else: this file is run as a program, by its path.

    serving.py PARENT PORT ANNOUNCE FOLDER

Serves on a loopback port (0: any that is free), writes its number to the descriptor ANNOUNCE once it can be connected
to, and ends on SIGTERM, or when the process PARENT does (unless that is 0). The access token is the environment
variable NEST_SERVER_ACCESS_TOKEN. It also ends, after the step that it is at, when its stdin does.
"""

from __future__ import annotations

import ctypes
import hmac
import io
import os
import signal
import sys
import threading
from contextlib import suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer
from typing import Any
from wsgiref.simple_server import ServerHandler, WSGIRequestHandler, WSGIServer

from nrp_simserver import processes

TOKEN = os.environ["NEST_SERVER_ACCESS_TOKEN"]

FIRST_REQUEST_S = 5.0
"""How long a connection may keep others waiting before it has shown the token: one is served at a time."""

LINE_BUFFERED = 1
"""C's _IOLBF."""


class RequestHandler(WSGIRequestHandler):
    """Keeps the connection open, sends an answer in one piece and at once, and does not fill the log with requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = FIRST_REQUEST_S

    handle = BaseHTTPRequestHandler.handle

    def handle_one_request(self) -> None:
        """Have the application answer the next request, or note that there will be none."""
        self.close_connection = True
        with suppress(TimeoutError, ConnectionError):
            self.raw_requestline = self.rfile.readline(2**16)
            if not self.raw_requestline or not self.parse_request():
                return
            given = self.headers.get("NESTServerAuth", "")
            if not hmac.compare_digest(given.encode(), TOKEN.encode()):
                self.send_error(HTTPStatus.FORBIDDEN, "Unauthorized")
                return
            self.connection.settimeout(None)
            server: Any = self.server
            body = io.BytesIO(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            handler: Any = ServerHandler(body, self.wfile, sys.stderr, self.get_environ(), multithread=False)  # type: ignore[arg-type]
            handler.http_version = "1.1"
            handler.request_handler = self
            handler.run(server.get_app())
            self.close_connection = False

    def log_request(self, *_: Any) -> None:
        """Nothing: there are thousands a second."""


class Server(WSGIServer):
    """Asks no name server for its own name."""

    def server_bind(self) -> None:
        """Bind the socket."""
        TCPServer.server_bind(self)
        self.server_name = "localhost"
        self.server_port = self.socket.getsockname()[1]
        self.setup_environ()


def end_with_stdin() -> None:
    """End when nobody has the other end any more."""
    while os.read(0, 1):
        pass
    os._exit(1)


def main(parent: int, port: int, announce: int, folder: str) -> None:
    """Serve until told to end."""
    if parent:
        processes.die_with_parent(parent)
    threading.Thread(target=end_with_stdin, daemon=True).start()
    libc = ctypes.CDLL(None)
    # So that what NEST says is not lost in a crash.
    libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, LINE_BUFFERED, 0)
    # The token, lines of "=", tracebacks of errors that are answered as well. NEST's own output does not go through it.
    sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115  to the end
    import nest
    from nest.server import app

    nest.verbosity = nest.VerbosityLevel.WARNING
    # Its own check of the token goes through all objects of the process, which takes longer than the rest of a step.
    app.before_request_funcs.clear()
    sys.path.insert(0, folder)  # not before: a file of the experiment may be called nest.py
    server = Server(("127.0.0.1", port), RequestHandler)
    server.set_app(app)

    def end(*_: Any) -> None:
        nest.ResetKernel()  # closes the files that recorders write
        libc.fflush(None)
        os._exit(0)

    signal.signal(signal.SIGTERM, end)  # does what it does between two calls of NEST, never within one
    os.write(announce, f"{server.server_port}\n".encode())
    os.close(announce)
    server.serve_forever()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
