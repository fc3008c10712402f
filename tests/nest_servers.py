"""NEST Servers that are there before the simulation: the real one, and one that misbehaves."""

from __future__ import annotations

import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SERVE = """
import sys
from nest.server import app
from werkzeug.serving import make_server

server = make_server("127.0.0.1", 0, app)
print("port", server.server_port, file=sys.stderr, flush=True)
server.serve_forever()
"""
"""NEST Server as it comes: closes the connection after each request."""


@contextmanager
def nest_server(**variables: str) -> Iterator[int]:
    """A running NEST Server with these environment variables; its port."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE],
        env={**os.environ, "PYNEST_QUIET": "1", **variables},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process:
        try:
            port = next(int(line.split()[1]) for line in process.stderr if line.startswith("port "))
            reader = threading.Thread(target=process.stderr.read)  # a full pipe would stop it
            reader.start()
            yield port
        finally:
            process.kill()
            reader.join()


@contextmanager
def misbehaving_server(answer: bytes) -> Iterator[int]:
    """A server that answers every request so, then closes the connection; its port."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            for line in self.rfile:
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
                if not line.strip():
                    break
            self.rfile.read(length)
            self.wfile.write(answer)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            address: Any = server.server_address
            yield address[1]
        finally:
            server.shutdown()
            thread.join()
