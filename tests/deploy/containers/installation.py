"""What docker-compose.yml brings up, under test: driven as users drive it, looked at from the engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import requests

from tests.deploy.containers.engine import Engine
from tests.ports import free_port, free_ports
from tests.waiting import wait_until

DEPLOY = Path(__file__).parents[3] / "deploy"
HEALTHY_TIMEOUT_S = 300.0


class Installation:
    """A project of Docker Compose with settings, names and ports of its own; nothing runs before `up`.

    Args:
        engine: where it runs.
        folder: for its settings.
        images: by the variable that names each.
        settings: of the `.env` file, beyond what keeps it apart from others.
        gateways: for how many there are ports.
        files: of deploy/, each on top of those before it.

    Attributes:
        urls: of the gateways.
        mqtt: host and port of the broker.
        websocket: the broker's address for frontends.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        images: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        *,
        gateways: int = 1,
        files: tuple[str, ...] = ("docker-compose.yml",),
    ) -> None:
        self.engine = engine
        self._files = files
        self.project = f"nrptest{uuid.uuid4().hex[:8]}"
        ports = free_ports(gateways)
        first, mqtt, websocket, prometheus = ports[0], free_port(), free_port(), free_port()
        self.urls = [f"http://127.0.0.1:{first + number}" for number in range(gateways)]
        self.mqtt = ("127.0.0.1", mqtt)
        self.websocket = f"ws://127.0.0.1:{websocket}"
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        own = {
            "NRP_PORT": f"{first}-{first + gateways - 1}" if gateways > 1 else str(first),
            "NRP_MQTT_PORT": str(mqtt),
            "NRP_MQTT_WEBSOCKET_PORT": str(websocket),
            "NRP_PROMETHEUS_PORT": str(prometheus),
            "NRP_LAUNCHER_MEMORY": "2g",
        }
        self._settings = {**own, **images, **(settings or {})}
        self._env_file = folder / f"{self.project}.env"
        self._write_settings()

    def _write_settings(self) -> None:
        self._env_file.write_text("".join(f"{name}={value}\n" for name, value in self._settings.items()))

    def set(self, **settings: str) -> None:
        """Change settings, for what is brought up from now on."""
        self._settings |= settings
        self._write_settings()

    # -- Docker Compose ------------------------------------------------------------------------------------------------

    def run_compose(self, *arguments: str, text: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of Docker Compose; `text` is its standard input."""
        named = ["--project-name", self.project]
        for file in self._files:
            named += ["--file", str(DEPLOY / file)]
        return subprocess.run(
            [*self.engine.compose, "--env-file", str(self._env_file), *named, *arguments],
            env=self.engine.environment,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def compose(self, *arguments: str, text: str | None = None) -> str:
        """What a command of Docker Compose prints; it has to succeed."""
        run = self.run_compose(*arguments, text=text)
        assert run.returncode == 0, f"{' '.join(arguments)}: {run.stdout}{run.stderr}\n{self.logs()}"
        return run.stdout

    def up(self, *services: str, profiles: tuple[str, ...] = (), **scale: int) -> None:
        """Bring services up, all when none is named, and wait until each is ready."""
        asked = [argument for profile in profiles for argument in ("--profile", profile)]
        scaled = [argument for service, number in scale.items() for argument in ("--scale", f"{service}={number}")]
        self.compose(*asked, "up", "--detach", "--no-build", *scaled, *services)
        self.await_health()

    def down(self, *options: str) -> None:
        """Take everything down."""
        profiles = ("--profile", "postgresql", "--profile", "monitoring")
        self.compose(*profiles, "down", *options)

    # -- containers ----------------------------------------------------------------------------------------------------

    def containers(self, service: str | None = None) -> list[str]:
        """The ids of a service's containers, of all services' when none is named, in the order of their numbers."""
        filters = [f"label=com.docker.compose.project={self.project}", "label=com.docker.compose.oneoff=False"]
        if service is not None:
            filters.append(f"label=com.docker.compose.service={service}")
        arguments = [argument for each in filters for argument in ("--filter", each)]
        found = self.engine.docker("ps", "--all", "--no-trunc", "--format", "{{.Names}} {{.ID}}", *arguments)
        return [line.split()[1] for line in sorted(found.splitlines())]

    def inspect(self, container: str) -> dict[str, Any]:
        """All that the engine knows of a container."""
        return self._inspect_all([container])[0]

    def _inspect_all(self, containers: list[str]) -> list[dict[str, Any]]:
        described: list[dict[str, Any]] = json.loads(self.engine.docker("inspect", *containers))
        return described

    def await_health(self) -> None:
        """All containers that are to run are ready."""
        containers = self.containers()
        wait_until(lambda: all(map(_is_ready, self._inspect_all(containers))), HEALTHY_TIMEOUT_S)

    def crash(self, container: str) -> None:
        """Have a container's first process die, and wait until it has been started again and is ready."""
        before = self.inspect(container)
        if self.engine.is_own:
            os.kill(before["State"]["Pid"], signal.SIGKILL)
        else:  # its processes may be on another machine; who kills a container has it stay dead
            self.engine.docker("kill", container)
            self.engine.docker("start", container)
        wait_until(lambda: self.inspect(container)["State"]["StartedAt"] > before["State"]["StartedAt"], 60)
        wait_until(lambda: _is_ready(self.inspect(container)), HEALTHY_TIMEOUT_S)

    def execute(self, container: str, *command: str) -> str:
        """What a program prints in a container."""
        return self.engine.docker("exec", container, *command)

    def logs(self, service: str | None = None) -> str:
        """What the containers of a service wrote to stdout."""
        written = ""
        for container in self.containers(service):
            run = subprocess.run(
                self.engine.command("logs", container), capture_output=True, text=True, timeout=60, check=False
            )
            written += run.stdout if service else f"== {_service_of(self.inspect(container))}\n{run.stdout}{run.stderr}"
        return written

    def left(self) -> list[str]:
        """Whatever of the project the engine still has."""
        label = f"label=com.docker.compose.project={self.project}"
        return [
            f"{kind} {found}"
            for kind, listing in (
                ("container", ("ps", "--all")),
                ("volume", ("volume", "ls")),
                ("network", ("network", "ls")),
            )
            for found in self.engine.docker(*listing, "--quiet", "--filter", label).split()
        ]

    # -- the service, as tests.e2e drives it ---------------------------------------------------------------------------

    @property
    def url(self) -> str:
        return self.urls[0]

    def post(self, path: str, body: object = None) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=40)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=40)

    def put_state(self, simulation_id: int, state: str) -> requests.Response:
        return requests.put(f"{self.url}/simulation/{simulation_id}/state", json={"state": state}, timeout=40)

    def state_of(self, simulation_id: int) -> str | None:
        """What the gateway says, None while it says nothing."""
        with suppress(requests.RequestException):
            answer = self.get(f"/simulation/{simulation_id}/state")
            if answer.ok:
                return str(answer.json()["state"])
        return None

    def await_readiness(self) -> None:
        """A launch would be taken."""

        def is_ready() -> bool:
            with suppress(requests.RequestException):
                return self.get("/ready").ok
            return False

        wait_until(is_ready, HEALTHY_TIMEOUT_S)


def _service_of(described: dict[str, Any]) -> str:
    return str(described["Config"]["Labels"]["com.docker.compose.service"])


def _is_ready(described: dict[str, Any]) -> bool:
    state = described["State"]
    if _service_of(described) in ("secrets", "access"):
        return bool(state["Status"] == "exited" and state["ExitCode"] == 0)
    return bool(state["Running"] and state.get("Health", {}).get("Status") == "healthy")
