"""The API of a cluster over HTTPS, as far as Jobs and Pods go, with what can go wrong on the way to it.

Creation is checked as a real API server does: against the schema of Kubernetes, and the rules that are not in it.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

import kubernetes_validate
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kubernetes.cluster import GPU, Cluster, amount
from tests.kubernetes.objects import AlreadyExists, Expired, Object, matches
from tests.ports import free_port

NAMESPACE: Final = "nrp"

KUBERNETES: Final = "1.33"
"""Whose schemas are meant."""

_RESOURCES: Final = {("api/v1", "pods"): ("", "Pod"), ("apis/batch/v1", "jobs"): ("batch", "Job")}
"""Group and kind of what is below which part of a path."""

_REASONS: Final = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "MethodNotAllowed",
    409: "AlreadyExists",
    410: "Expired",
    422: "Invalid",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


class Refused(Exception):
    """The API answers with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def status(self) -> Object:
        return status(self.code, str(self))


def status(code: int, message: str) -> Object:
    """The body of an error."""
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": _REASONS.get(code, "Unknown"),
        "code": code,
    }


@dataclass
class Fault:
    """What befalls requests.

    Attributes:
        kind: `answer` with an error, or `swallow` the answer to a request that was carried out.
        method: of requests that it befalls, "" for any.
        path: what is in theirs.
        times: how many it still befalls.
        code: of the error.
        message: of the error.
        retry_after: seconds, told with it; None for no such header.
    """

    kind: str
    method: str
    path: str
    times: float
    code: int = 500
    message: str = ""
    retry_after: int | None = None


@dataclass(frozen=True)
class Request:
    """A request that came."""

    method: str
    path: str
    query: dict[str, str]


class KubernetesApi:
    """Serves a cluster's API at 127.0.0.1, when started.

    Args:
        cluster: whose Jobs and Pods.
        rules: of the Role that callers have, as RBAC writes them.
        folder: for the certificate and the kubeconfig.

    Attributes:
        requests: all that came.
        kubeconfig: a file that tells clients how to get in.
        certificate: a file with the server's, which signed itself.
    """

    TOKEN = "a-service-account's-token"

    def __init__(self, cluster: Cluster, rules: list[Object], folder: Path) -> None:
        self.cluster = cluster
        self.requests: list[Request] = []
        self.kubeconfig = folder / "kubeconfig"
        self._rules = rules
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._watches_end_before = 0.0
        self.certificate = folder / "api.pem"
        _write_certificate(self.certificate)
        self.port = free_port()
        self._write_kubeconfig()
        self._server: _Server | None = None

    def __enter__(self) -> KubernetesApi:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def is_there(self) -> bool:
        return self._server is not None

    def start(self) -> None:
        """Serve; also again after a `stop`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate)
        self._server = _Server(("127.0.0.1", self.port), type("Handler", (_Handler,), {"api": self}))
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Be away: all connections are cut, and none is taken."""
        server, self._server = self._server, None
        if server is None:
            return
        server.shutdown()
        server.server_close()
        self.cut_connections()

    # -- faults --------------------------------------------------------------------------------------------------------

    def answer(
        self,
        code: int,
        method: str = "",
        path: str = "",
        *,
        message: str = "as the test wants it",
        times: float = 1,
        retry_after: int | None = None,
    ) -> None:
        """Answer requests with an error."""
        self._faults.append(Fault("answer", method, path, times, code, message, retry_after))

    def swallow(self, method: str, path: str = "", *, times: float = 1) -> None:
        """Carry requests out, and cut the connection before they are answered."""
        self._faults.append(Fault("swallow", method, path, times))

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()

    def cut_connections(self) -> None:
        """Cut all connections, watches among them."""
        with self._lock:
            for each in self._connections:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """Remember no change up to now: who goes on from an earlier version is told so (410)."""
        self.cluster.objects.forget()

    def end_watches(self) -> None:
        """End all watches in order, as a server does after a while."""
        with self.cluster.objects.changed:
            self._watches_end_before = time.monotonic()
            self.cluster.objects.changed.notify_all()

    def count(self, method: str = "", path: str = "") -> int:
        """How many requests came."""
        return sum(method in each.method and path in each.path for each in list(self.requests))

    @property
    def watches(self) -> int:
        """How many times somebody began to follow changes."""
        return sum(self.verb_of(each) == "watch" for each in list(self.requests))

    def fault_for(self, request: Request) -> Fault | None:
        with self._lock:
            self.requests.append(request)
            for fault in self._faults:
                if fault.times > 0 and fault.method in request.method and fault.path in request.path:
                    fault.times -= 1
                    return fault
            return None

    def connected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.add(connection)

    def disconnected(self, connection: socket.socket) -> None:
        with self._lock:
            self._connections.discard(connection)

    # -- what is asked -------------------------------------------------------------------------------------------------

    def carry_out(self, request: Request, body: bytes) -> tuple[int, Object]:
        """Any request but a watch: code and body of the answer.

        Raises:
            Refused: it is not.
        """
        kind, name = self._resource(request, self.verb_of(request))
        objects = self.cluster.objects
        match request.method:
            case "GET" if name is None:
                found = objects.all(kind, request.query.get("labelSelector", ""))
                metadata = {"resourceVersion": str(objects.version)}
                group = "batch/v1" if kind == "Job" else "v1"
                return 200, {"kind": f"{kind}List", "apiVersion": group, "metadata": metadata, "items": found}
            case "GET":
                assert name is not None
                return 200, self._existing(kind, name)
            case "POST" if kind == "Job" and name is None:
                return 201, self._create(json.loads(body), dry="dryRun" in request.query)
            case "DELETE" if name is not None:
                return 200, self._delete(kind, name, request, json.loads(body or b"{}"))
        raise Refused(405, "the server does not allow this method on the requested resource")

    @staticmethod
    def verb_of(request: Request) -> str:
        """What a Role calls it."""
        is_one = urlsplit(request.path).path.rstrip("/").split("/")[-2] in ("jobs", "pods")
        if request.method == "GET" and not is_one:
            return "watch" if request.query.get("watch") in ("true", "1", "True") else "list"
        verbs = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
        return verbs.get(request.method, "delete" if is_one else "deletecollection")

    def _resource(self, request: Request, verb: str) -> tuple[str, str | None]:
        match = re.fullmatch(r"/(api/v1|apis/batch/v1)/namespaces/([^/]+)/(jobs|pods)(?:/([^/]+))?(/.*)?", request.path)
        if match is None:
            raise Refused(404, "the server could not find the requested resource")
        group, namespace, resource, name, below = match.groups()
        api_group, kind = _RESOURCES.get((group, resource), ("", ""))
        if not kind:
            raise Refused(404, "the server could not find the requested resource")
        asked = resource + (below or "")
        is_allowed = namespace == NAMESPACE and any(
            api_group in rule["apiGroups"] and asked in rule["resources"] and verb in rule["verbs"]
            for rule in self._rules
        )
        if not is_allowed:
            raise Refused(
                403,
                f'{asked} is forbidden: User "system:serviceaccount:{NAMESPACE}:nrp-launcher" cannot {verb} resource '
                f'"{asked}" in API group "{api_group}" in the namespace "{namespace}"',
            )
        return kind, None if name is None else unquote(name)

    def _existing(self, kind: str, name: str) -> Object:
        found = self.cluster.objects.get(kind, name)
        if found is None:
            resource = "jobs.batch" if kind == "Job" else "pods"
            raise Refused(404, f'{resource} "{name}" not found')
        return found

    def _create(self, job: Object, *, dry: bool) -> Object:
        check_job(job)
        job["metadata"]["namespace"] = NAMESPACE
        if dry:
            if self.cluster.objects.get("Job", job["metadata"]["name"]) is not None:
                raise Refused(409, f'jobs.batch "{job["metadata"]["name"]}" already exists')
            return job
        try:
            return self.cluster.objects.add(job)
        except AlreadyExists as error:
            raise Refused(409, f'jobs.batch "{job["metadata"]["name"]}" already exists') from error

    def _delete(self, kind: str, name: str, request: Request, options: Object) -> Object:
        found = self._existing(kind, name)
        wanted = (options.get("preconditions") or {}).get("uid", found["metadata"]["uid"])
        if wanted != found["metadata"]["uid"]:
            raise Refused(409, f"Precondition failed: UID in precondition: {wanted}")
        if kind == "Job":
            # Without a word about it the Pods of a Job stay, in this version of the API.
            propagation = options.get("propagationPolicy") or request.query.get("propagationPolicy") or "Orphan"
            self.cluster.delete_job(name, propagation)
        else:
            grace = options.get("gracePeriodSeconds", request.query.get("gracePeriodSeconds"))
            self.cluster.delete_pod(name, None if grace is None else float(grace))
        return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}

    def watch(self, request: Request) -> Iterator[Object]:
        """The events of a watch, until it is over.

        Raises:
            Refused: it is not allowed.
        """
        kind, _ = self._resource(request, "watch")
        return self._events(kind, request.query)

    def _events(self, kind: str, query: dict[str, str]) -> Iterator[Object]:
        objects, selector = self.cluster.objects, query.get("labelSelector", "")
        began = time.monotonic()
        until = began + float(query.get("timeoutSeconds", 1800))
        version = int(query.get("resourceVersion") or 0)
        if version == 0:  # from anywhere: what is there comes as if it were new
            with objects.changed:
                known, version = objects.all(kind, selector), objects.version
            for each in known:
                yield {"type": "ADDED", "object": each}
        with_bookmarks = query.get("allowWatchBookmarks") in ("true", "True", "1")
        while time.monotonic() < until and self._server is not None and began >= self._watches_end_before:
            with objects.changed:
                try:
                    events = objects.since(version, kind)
                except Expired:
                    yield {"type": "ERROR", "object": status(410, f"too old resource version: {version}")}
                    return
                if not events:
                    objects.changed.wait(0.1)
            for event in events:
                version = event.version
                if matches(event.object, selector):
                    yield {"type": event.change, "object": event.object}
        if with_bookmarks and self._server is not None:
            group = "batch/v1" if kind == "Job" else "v1"
            metadata = {"resourceVersion": str(version)}
            yield {"type": "BOOKMARK", "object": {"kind": kind, "apiVersion": group, "metadata": metadata}}

    # -- how clients get in --------------------------------------------------------------------------------------------

    def _write_kubeconfig(self) -> None:
        authority = base64.b64encode(self.certificate.read_bytes().split(b"-----BEGIN EC PRIVATE")[0]).decode()
        self.kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "test",
                    "clusters": [
                        {
                            "name": "test",
                            "cluster": {
                                "server": f"https://127.0.0.1:{self.port}",
                                "certificate-authority-data": authority,
                            },
                        }
                    ],
                    "users": [{"name": "launcher", "user": {"token": self.TOKEN}}],
                    "contexts": [
                        {
                            "name": "test",
                            "context": {"cluster": "test", "user": "launcher", "namespace": NAMESPACE},
                        }
                    ],
                }
            )
        )


# -- what is checked when a Job is created -----------------------------------------------------------------------------


def check_job(job: Object) -> None:
    """Refuse what an API server would.

    Raises:
        Refused: says why.
    """
    name = job.get("metadata", {}).get("name", "")
    try:
        kubernetes_validate.validate(job, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        raise Refused(400, f"Job in version {KUBERNETES} cannot be handled: {error.message}") from error
    faults = [*_name_faults(name), *_label_faults(job), *_spec_faults(job["spec"])]
    if faults:
        raise Refused(422, f'Job.batch "{name}" is invalid: {"; ".join(faults)}')


def _name_faults(name: str) -> Iterator[str]:
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) or len(name) > 63:
        yield f'metadata.name: Invalid value: "{name}"'


def _label_faults(job: Object) -> Iterator[str]:
    for each in (job["metadata"], job["spec"]["template"].get("metadata") or {}):
        for key, value in (each.get("labels") or {}).items():
            if not re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", key):
                yield f'metadata.labels: Invalid value: "{key}"'
            if not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?", value):
                yield f'metadata.labels: Invalid value: "{value}"'
        for key, value in (each.get("annotations") or {}).items():
            if not isinstance(value, str):
                yield f"metadata.annotations: Invalid value: {key}"


def _spec_faults(spec: Object) -> Iterator[str]:
    pod = spec["template"]["spec"]
    if pod.get("restartPolicy") not in ("Never", "OnFailure"):
        yield 'spec.template.spec.restartPolicy: Unsupported value: supported values: "OnFailure", "Never"'
    if "podFailurePolicy" in spec and pod.get("restartPolicy") != "Never":
        yield 'spec.template.spec.restartPolicy: Invalid value: only "Never" is supported with podFailurePolicy'
    if spec.get("activeDeadlineSeconds", 1) < 0:
        yield "spec.activeDeadlineSeconds: Invalid value: must be greater than or equal to 0"
    volumes = {each["name"] for each in pod.get("volumes") or []}
    for container in pod["containers"]:
        if not container.get("image"):
            yield "spec.template.spec.containers[0].image: Required value"
        mounts = [each["mountPath"] for each in container.get("volumeMounts") or []]
        if len(mounts) != len(set(mounts)):
            yield "spec.template.spec.containers[0].volumeMounts: must be unique"
        for mount in container.get("volumeMounts") or []:
            if mount["name"] not in volumes:
                yield f'spec.template.spec.containers[0].volumeMounts[0].name: Not found: "{mount["name"]}"'
            if Path(mount.get("subPath", "")).is_absolute() or ".." in Path(mount.get("subPath", "")).parts:
                yield "spec.template.spec.containers[0].volumeMounts[0].subPath: must be a relative path"
        yield from _resource_faults(container.get("resources") or {})


def _resource_faults(resources: Object) -> Iterator[str]:
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    where = "spec.template.spec.containers[0].resources"
    for name, wish in requests.items():
        if name in limits and amount(wish) > amount(limits[name]):
            yield f'{where}.requests: Invalid value: "{wish}": must be less than or equal to {name} limit'
    if GPU in requests and str(requests[GPU]) != str(limits.get(GPU)):
        yield f"{where}.limits: Required value: Limit must be set for {GPU}"


# -- HTTP --------------------------------------------------------------------------------------------------------------


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away, and connections that are cut, are no news."""


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    api: KubernetesApi

    def setup(self) -> None:
        self.api.connected(self.request)
        self.request.do_handshake()
        super().setup()

    def finish(self) -> None:
        self.api.disconnected(self.request)
        with suppress(OSError):
            super().finish()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_DELETE(self) -> None:
        self._serve()

    def do_PATCH(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, *_: object) -> None:
        """Not to stderr."""

    def _serve(self) -> None:
        address = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(address.query).items()}
        request = Request(self.command, address.path, query)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        fault = self.api.fault_for(request)
        try:
            scheme, _, token = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() != "bearer" or token != self.api.TOKEN:
                raise Refused(401, "Unauthorized")
            if fault is not None and fault.kind == "answer":
                self._say(fault.code, status(fault.code, fault.message), fault.retry_after)
                return
            if self.api.verb_of(request) == "watch":
                self._stream(self.api.watch(request))
                return
            code, answer = self.api.carry_out(request, body)
        except Refused as refusal:
            self._say(refusal.code, refusal.status)
            return
        if fault is not None:
            self.close_connection = True
            self.request.shutdown(socket.SHUT_RDWR)
        else:
            self._say(code, answer)

    def _say(self, code: int, answer: Object, retry_after: int | None = None) -> None:
        content = json.dumps(answer).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if retry_after is not None:
            self.send_header("Retry-After", str(retry_after))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, events: Iterator[Object]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.flush()
        for event in events:
            line = json.dumps(event).encode() + b"\n"
            self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
        self.wfile.write(b"0\r\n\r\n")


def _write_certificate(path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kubernetes")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)
