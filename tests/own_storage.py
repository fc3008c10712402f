"""The gateway's own storage by itself, served as the gateway is.

python -m tests.own_storage ROOT PORT serves the folder ROOT.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from flask_openapi3.openapi import OpenAPI
from granian import Granian
from granian.constants import Interfaces
from pydantic import ValidationError

from nrp_gateway.bodies import ErrorBody, describe_fault
from nrp_gateway.errors import RequestError, answer_errors_in_json
from nrp_gateway.storage.routes import create_blueprint
from tests.ports import free_port
from tests.waiting import wait_until


class OwnStorage:
    """The storage over the folder `root`, in a process of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.port = free_port()
        self._process = subprocess.Popen([sys.executable, "-m", "tests.own_storage", str(root), str(self.port)])
        wait_until(self._answers, 20)

    @property
    def url(self) -> str:
        """What comes before `/storage/...`."""
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process.poll() is None, "the storage ended"
        try:
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        except OSError:
            return False
        return True


def create_app(root: Path) -> OpenAPI:
    app = OpenAPI(
        __name__,
        security_schemes={"token": {"type": "http", "scheme": "bearer"}},
        validation_error_status=400,
        validation_error_model=ErrorBody,
        validation_error_callback=_refuse,
    )
    app.url_map.merge_slashes = False  # as the gateway
    app.url_map.strict_slashes = False
    answer_errors_in_json(app)
    app.register_api(create_blueprint(root))
    return app


def _refuse(error: ValidationError) -> NoReturn:
    raise RequestError(describe_fault(error.errors(include_url=False))) from error


def _load(*_: Any) -> OpenAPI:
    return create_app(Path(sys.argv[1]))


if __name__ == "__main__":
    Granian(
        "own_storage",
        address="127.0.0.1",
        port=int(sys.argv[2]),
        interface=Interfaces.WSGI,
        workers=1,
        blocking_threads=16,
        websockets=False,
        log_enabled=False,
    ).serve(target_loader=_load, wrap_loader=False)
