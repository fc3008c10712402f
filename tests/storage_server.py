"""A Storage Server as the NRP's own proxy is one, over real HTTP, with users, rights, and faults on demand."""

from __future__ import annotations

import json
import shutil
import socket
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.ports import free_port

BAD_TOKEN = 477


@dataclass
class Fault:
    """What goes wrong.

    Attributes:
        kind: `answer` with `status`; `hang`, until healed; `cut` the connection in the middle of a body.
        path: only requests whose decoded path contains this.
        times: how often, None for always.
    """

    kind: str
    path: str = ""
    times: int | None = None
    status: int = 500

    def strikes(self, path: str) -> bool:
        if self.path not in path or self.times == 0:
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Request:
    """A request that arrived; `path` is decoded, without the query."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    token: str | None = None


class StorageServer:
    """The server; each subfolder of `root` is an experiment.

    Experiments belong to `owner` until `give` says otherwise; he has the token `TOKEN`.
    """

    OWNER = "owner"
    TOKEN = "owners-token"

    def __init__(self, root: Path) -> None:
        self.root = root
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.users: dict[str, str] = {self.TOKEN: self.OWNER}
        self._viewers: dict[str, list[str]] = {}
        self._lock = threading.Lock()
        self._healed = threading.Event()
        self._connections: set[socket.socket] = set()
        self._server: ThreadingHTTPServer | None = None
        self._port = free_port()
        self.start()

    # -- coming and going ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Serve, on the same port as before. Does nothing when it serves."""
        if self._server is not None:
            return
        storage = self

        class Handler(_Handler):
            def setup(self) -> None:
                super().setup()
                self.storage = storage
                with storage._lock:
                    storage._connections.add(self.connection)

            def finish(self) -> None:
                with storage._lock:
                    storage._connections.discard(self.connection)
                super().finish()

        self._server = _Server(("127.0.0.1", self._port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Go away, dropping all connections."""
        if self._server is None:
            return
        self._healed.set()
        self._server.shutdown()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):  # its client has just gone
                    connection.shutdown(socket.SHUT_RDWR)
        self._server.server_close()
        self._server = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """What comes before `/storage/...`."""
        return f"http://127.0.0.1:{self._port}"

    # -- experiments and users -----------------------------------------------------------------------------------------

    def put(self, experiment: str, files: dict[str, str | bytes] | Path) -> None:
        """Make an experiment of contents by path, or of a folder."""
        folder = self.root / experiment
        folder.mkdir(exist_ok=True)
        if isinstance(files, Path):
            shutil.copytree(files, folder, dirs_exist_ok=True)
            return
        for path, content in files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content.encode() if isinstance(content, str) else content)

    def names(self, experiment: str) -> list[str]:
        """The paths of an experiment's files."""
        folder = self.root / experiment
        return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

    def add_user(self, user: str) -> str:
        """A new user's token."""
        token = uuid.uuid4().hex
        self.users[token] = user
        return token

    def give(self, experiment: str, *users: str) -> None:
        """Let exactly these users see an experiment."""
        self._viewers[experiment] = list(users)

    def may_see(self, user: str | None, experiment: str) -> bool:
        return (self.root / experiment).is_dir() and user in self._viewers.get(experiment, [self.OWNER])

    # -- faults and observation ----------------------------------------------------------------------------------------

    def answer(self, status: int, path: str = "", times: int | None = None) -> None:
        """Answer with an error."""
        self.faults.append(Fault("answer", path, times, status))

    def hang(self, path: str = "", times: int | None = None) -> None:
        """Take requests and say nothing."""
        self._healed.clear()
        self.faults.append(Fault("hang", path, times))

    def cut(self, path: str = "", times: int | None = None) -> None:
        """Close the connection in the middle of a file."""
        self.faults.append(Fault("cut", path, times))

    def heal(self) -> None:
        """No more faults."""
        self.faults.clear()
        self._healed.set()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests arrived."""
        return sum(method in each.method and path in each.path for each in list(self.requests))

    def fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            return next((fault for fault in self.faults if fault.strikes(request.path)), None)

    def wait_for_healing(self) -> None:
        self._healed.wait(60)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away are no news."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    storage: StorageServer
    _answering: Request
    _cut = False

    def log_message(self, *_: object) -> None:
        """Not to stderr."""

    def do_GET(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def _serve(self) -> None:
        address = urlsplit(self.path)
        # As the proxy's router: levels are told apart before they are decoded.
        levels = [unquote(level) for level in address.path.strip("/").split("/")]
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        request = Request(self.command, unquote(address.path), query, token if scheme == "Bearer" else None)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.storage.fault_for(request)
        if fault is not None and fault.kind == "hang":
            self.storage.wait_for_healing()
            self.close_connection = True
            return
        if fault is not None and fault.kind == "answer":
            self._say({"message": f"fault {fault.status}"}, fault.status)
            return
        self._cut = fault is not None
        self._answer(request, levels, body)

    def _answer(self, request: Request, levels: list[str], body: bytes) -> None:
        match request.method, levels:
            case "POST", ["authentication", "authenticate"]:
                self._authenticate(json.loads(body))
                return
        user = self.storage.users.get(request.token or "")
        if request.token is None:
            self._say({"message": "no token"}, 500)
        elif user is None:
            self._say({"mode": "LOCAL", "url": "http://somewhere/login", "clientId": "nrp"}, BAD_TOKEN)
        else:
            self._answer_user(request, levels, body, user)

    def _answer_user(self, request: Request, levels: list[str], body: bytes, user: str) -> None:
        match request.method, levels:
            case "GET", ["identity", "me"]:
                self._say({"id": user, "displayName": user.title()})
            case "GET", ["storage", "experiments"]:
                self._list_experiments(user, request.query.get("filter"))
            case "PUT", ["storage", experiment]:
                (self.storage.root / experiment).mkdir(exist_ok=True)
                self.storage.give(experiment, user)
                self._say({"uuid": experiment})
            case method, ["storage", place, *rest]:
                experiment = place.partition("/")[0]
                if self.storage.may_see(user, experiment):
                    self._answer_viewer(method, place, rest, request.query, body)
                elif method == "GET" and rest:
                    self._say(None, 204)
                else:
                    self._say({"message": "not yours"}, 403)
            case _:
                self._say({"message": "no such route"}, 404)

    def _answer_viewer(self, method: str, place: str, rest: list[str], query: dict[str, str], body: bytes) -> None:
        path = self.storage.root.joinpath(place, *rest)
        match method, rest:
            case "GET", []:
                self._list(place, path)
            case "GET", [_]:
                self._say(path.read_bytes() if path.is_file() else None, 200 if path.is_file() else 204)
            case "POST", [_] if query.get("type") == "folder":
                path.mkdir(parents=True, exist_ok=True)
                self._say({})
            case "POST", [_]:
                is_binary = self.headers.get("Content-Type") == "application/octet-stream"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(body if is_binary else body.decode(errors="replace").encode())
                self._say({})
            case "DELETE", [_]:
                status = 200 if path.is_file() else 204
                path.unlink(missing_ok=True)
                self._say(None, status)
            case _:
                self._say({"message": "no such route"}, 404)

    def _authenticate(self, credentials: dict[str, str]) -> None:
        token = next((token for token, user in self.storage.users.items() if user == credentials.get("user")), None)
        if token is None or credentials.get("password") != "password":
            self._say({"message": "wrong password"}, 403)
        else:
            self._say(token.encode())

    def _list_experiments(self, user: str, name: str | None) -> None:
        self._say(
            [
                {"uuid": path.name, "name": path.name, "owned": True, "configuration": {}}
                for path in sorted(self.storage.root.iterdir())
                if self.storage.may_see(user, path.name) and name in (None, path.name)
            ]
        )

    def _list(self, place: str, path: Path) -> None:
        if not path.is_dir():
            self._say({"message": "no such folder"}, 403)
            return
        self._say(
            [
                {
                    "name": each.name,
                    "uuid": f"{place}/{each.name}",
                    "size": each.stat().st_size,
                    "type": "folder" if each.is_dir() else "file",
                    "modifiedOn": _time_of(each),
                }
                for each in path.iterdir()
            ]
        )

    def _say(self, answer: Any, status: int = 200) -> None:
        content = b"" if answer is None else answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if isinstance(answer, dict | list) else "text/plain")
        if status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if self._cut else content)
        self.close_connection = self.close_connection or self._cut


def _time_of(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
