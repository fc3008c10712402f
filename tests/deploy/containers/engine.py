"""A Docker engine for the tests: the one that is there, or one of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

START_TIMEOUT_S = 60.0


class NoEngine(Exception):
    """No engine can be had; says why."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers.

    Attributes:
        host: where.
        program: the client.
        compose: Docker Compose, of either generation.
        is_own: whether the tests started it, on this machine.
    """

    host: str | None
    program: str
    compose: tuple[str, ...]
    is_own: bool

    @property
    def environment(self) -> dict[str, str]:
        """Of its clients, without what the machine's settings would say to the compose file."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NRP_", "COMPOSE_"))}
        return kept | ({"DOCKER_HOST": self.host} if self.host else {})

    def command(self, *arguments: str | Path) -> list[str]:
        """A Docker command line, for whoever has not the `environment`."""
        return [self.program, *(["--host", self.host] if self.host else []), *map(str, arguments)]

    def docker(self, *arguments: str | Path, check: bool = True, **options: object) -> str:
        """What a Docker command prints."""
        run = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
            **options,
        )
        assert not check or run.returncode == 0, f"docker {' '.join(map(str, arguments))}: {run.stdout}{run.stderr}"
        return run.stdout + ("" if check else run.stderr)


@contextmanager
def docker_engine() -> Iterator[Engine]:
    """An engine, for as long as the tests need it.

    Raises:
        NoEngine: there is none, and none can be started.
    """
    # Debian's own client first: it goes with the engine that Debian has, and knows how to build with it.
    program = "/usr/bin/docker" if Path("/usr/bin/docker").exists() else shutil.which("docker")
    if program is None:
        raise NoEngine("docker is not installed")
    compose = _compose(program)
    if subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
        yield Engine(None, program, compose, is_own=False)
        return
    if os.getuid() != 0:
        raise NoEngine("no Docker engine runs, and only root can start one")
    dockerd = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    if dockerd is None:
        raise NoEngine("no Docker engine runs, and dockerd is not installed")
    with _started(dockerd) as host:
        yield Engine(host, program, compose, is_own=True)


def _compose(program: str) -> tuple[str, ...]:
    for command in ((program, "compose"), ("docker-compose",)):
        try:
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    raise NoEngine("Docker Compose is not installed")


@contextmanager
def _started(dockerd: str) -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="nrp_docker_"))
    log = folder / "dockerd.log"
    host = f"unix://{folder}/socket"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                dockerd,
                *("--host", host),
                *("--data-root", str(folder / "data")),
                *("--exec-root", str(folder / "run")),
                *("--pidfile", str(folder / "pid")),
            ],
            stdout=output,
            stderr=output,
        )  # fmt: skip
    try:
        wait_until(lambda: process.poll() is not None or _answers(host), START_TIMEOUT_S)
        if process.poll() is not None:
            raise NoEngine(f"dockerd ended: {log.read_text(errors='replace').strip().splitlines()[-1]}")
        yield host
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        shutil.rmtree(folder)


def _answers(host: str) -> bool:
    command = ["docker", "--host", host, "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
