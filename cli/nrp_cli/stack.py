"""The whole stack on one machine: broker, gateway and launcher as child processes, started and ended in order."""

from __future__ import annotations

import os
import secrets
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import requests

from nrp_cli.child_process import ChildProcess
from nrp_cli.local_broker import LOOPBACK, PortWishes, plan_broker
from nrp_cli.ports import choose_port
from nrp_cli.stack_file import StackFile
from nrp_cli.terminal import console
from nrp_common.errors import NRPError

REST_PORT = 8090

READY_WITHIN_S = 60.0
LAUNCHER_GRACE_S = 60.0
"""It stops its simulations and stores their logs first."""
SERVICE_GRACE_S = 10.0


class StackError(NRPError):
    """A service of the stack did not start, or ended by itself."""


@dataclass(frozen=True)
class StackOptions:
    """How to bring up the stack.

    Attributes:
        data: the folder that everything is kept in; made when missing.
        host: where the gateway listens.
        port: the gateway's port, None for the usual one or the next free one.
        broker: `auto`, `mosquitto`, `embedded`, or `host:port` of one that runs.
        ports: of the broker, where asked for.
        environment: further settings of the services, `NRP_*`.
    """

    data: Path
    host: str = LOOPBACK
    port: int | None = None
    broker: str = "auto"
    ports: PortWishes = field(default_factory=PortWishes)
    environment: dict[str, str] = field(default_factory=dict)


class Stack:
    """A running stack; used as a context manager.

    Attributes:
        url: of the REST API.
        mqtt: `host:port` of the broker for MQTT 3.1.1 clients.
        mqtt5: the same for MQTT 5 clients.
        websocket: the address for MQTT over WebSocket, None when the broker is somebody else's.
    """

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self.url = self.mqtt = self.mqtt5 = ""
        self.websocket: str | None = None
        self._children: list[ChildProcess] = []
        self._logs = options.data / "logs"

    def __enter__(self) -> Self:
        try:
            with console.status("Starting broker, gateway and launcher"):
                self._start()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def _start(self) -> None:
        self._logs.mkdir(parents=True, exist_ok=True)
        taken = self._start_broker()
        options = self.options
        port = choose_port(
            options.host,
            REST_PORT if options.port is None else options.port,
            strict=options.port is not None,
            taken=taken,
        )
        reachable_host = LOOPBACK if options.host in ("0.0.0.0", "::", "") else options.host  # noqa: S104
        self.url = f"http://{reachable_host}:{port}"
        environment = {
            "NRP_SECRET_KEY": secrets.token_hex(32),
            "NRP_DATA_DIRECTORY": str(options.data),
            # Nobody is there to start another launcher; a simulation ends with this one, whatever ends it.
            "NRP_ORPHANED_S": os.environ.get("NRP_ORPHANED_S", "0"),
            **options.environment,
            "NRP_MQTT_BROKER_ADDRESS": self.mqtt5,
            "NRP_NRPCORESIM_BROKER": self.mqtt,
            "NRP_HOST": options.host,
            "NRP_PORT": str(port),
        }
        self._start_service("gateway", environment)
        from nrp_common.settings import CommonSettings  # takes a while, which the gateway needs to start anyway

        # The gateway keeps the experiments itself unless the environment names a Storage Server.
        environment["NRP_STORAGE_URL"] = CommonSettings.load().storage_url or self.url
        self._start_service("launcher", environment)
        self._wait_until(self._missing)
        StackFile.of_this_process(self.url, self.mqtt, self.mqtt5, self.websocket).write(options.data)

    def _start_broker(self) -> set[int]:
        broker = self.options.broker
        if broker not in ("auto", "mosquitto", "embedded"):
            self.mqtt = self.mqtt5 = broker
            return set()
        planned = plan_broker(broker, self.options.ports, self._logs)
        self._children.append(ChildProcess("broker", planned.command, self._logs / "broker.log"))
        self.mqtt = f"{LOOPBACK}:{planned.mqtt_port}"
        self.mqtt5 = f"{LOOPBACK}:{planned.mqtt5_port}"
        self.websocket = f"ws://{LOOPBACK}:{planned.websocket_port}"
        self._wait_until(
            lambda: [f"broker: nothing listens on port {port}" for port in planned.ports if not _listens(port)]
        )
        return planned.ports

    def _start_service(self, name: str, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "nrp_cli.services", name]
        self._children.append(ChildProcess(name, command, self._logs / f"{name}.log", environment))

    def _missing(self) -> list[str]:
        try:
            answer = requests.get(f"{self.url}/ready", timeout=5)
            if answer.ok:
                return []
            return [f"{part}: {state}" for part, state in answer.json().items() if part != "ready" and state != "ok"]
        except (requests.RequestException, ValueError):
            return ["gateway: does not answer"]

    def _wait_until(self, missing: Callable[[], list[str]]) -> None:
        deadline = time.monotonic() + READY_WITHIN_S
        while faults := missing():
            self.check()
            if time.monotonic() > deadline:
                raise StackError(
                    f"The stack is not ready after {READY_WITHIN_S:g} s ({'; '.join(faults)}). "
                    f"The services' logs are in {self._logs}"
                )
            time.sleep(0.02)

    def addresses(self) -> dict[str, str]:
        """What the stack offers, and where its data are."""
        mqtt5 = {} if self.mqtt5 == self.mqtt else {"MQTT 5": f"mqtt://{self.mqtt5}"}
        websocket = {} if self.websocket is None else {"WebSocket": self.websocket}
        return {"REST": self.url, "MQTT": f"mqtt://{self.mqtt}", **mqtt5, **websocket, "data": str(self.options.data)}

    def check(self) -> None:
        """See that all services run.

        Raises:
            StackError: one ended; with its last words.
        """
        for child in self._children:
            if child.has_ended:
                raise StackError(child.obituary())

    def end(self) -> None:
        """End all services in order: the launcher stores the logs of its simulations before its storage goes."""
        while self._children:
            child = self._children.pop()
            child.end(LAUNCHER_GRACE_S if child.name == "launcher" else SERVICE_GRACE_S)
        StackFile.remove_own(self.options.data)


def _listens(port: int) -> bool:
    try:
        with socket.create_connection((LOOPBACK, port), timeout=1):
            return True
    except OSError:
        return False
