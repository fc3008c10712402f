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
COMMAND_TIMEOUT_S = 120.0
FIRST_WITH_BUILDKIT = 23
"""Clients of this version and later build with it by themselves."""


class NoEngine(Exception):
    """No engine can be had; says why."""


@dataclass(frozen=True)
class Engine:
    """A Docker engine that answers.

    Attributes:
        program: the client.
        compose: Docker Compose, of either generation.
        environment: of both; with the engine's address.
        is_own: whether the tests started it, on this machine.
    """

    program: str
    compose: tuple[str, ...]
    environment: dict[str, str]
    is_own: bool

    def command(self, *arguments: str | Path) -> list[str]:
        """A Docker command line, for whoever has not the `environment`."""
        host = self.environment.get("DOCKER_HOST")
        return [self.program, *(["--host", host] if host else []), *map(str, arguments)]

    def docker(self, *arguments: str | Path) -> str:
        """What a Docker command prints; it has to succeed."""
        command = self.command(*arguments)
        run = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        assert run.returncode == 0, f"docker {' '.join(map(str, arguments))}: {run.stdout}{run.stderr}"
        return run.stdout


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
    environment = _environment(program)
    if subprocess.run([program, "info"], capture_output=True, check=False).returncode == 0:
        yield Engine(program, compose, environment, is_own=False)
        return
    if os.getuid() != 0:
        raise NoEngine("no Docker engine runs, and only root can start one")
    dockerd = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin")
    if dockerd is None:
        raise NoEngine("no Docker engine runs, and dockerd is not installed")
    with _firewall_as_it_was(), _started(dockerd) as host:
        yield Engine(program, compose, {**environment, "DOCKER_HOST": host}, is_own=True)


def _compose(program: str) -> tuple[str, ...]:
    for command in ((program, "compose"), ("docker-compose",)):
        try:
            if subprocess.run([*command, "version"], capture_output=True, check=False).returncode == 0:
                return command
        except FileNotFoundError:
            continue
    raise NoEngine("Docker Compose is not installed")


def _environment(program: str) -> dict[str, str]:
    """This process's, without what it would say to the compose file."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("NRP_", "COMPOSE_"))}
    version = [program, "version", "--format", "{{.Client.Version}}"]
    said = subprocess.run(version, capture_output=True, text=True, check=False).stdout
    # The older ones build stage by stage, also those that are not asked for, unless they are told.
    return kept | ({"DOCKER_BUILDKIT": "1"} if int(said.split(".")[0]) < FIRST_WITH_BUILDKIT else {})


@contextmanager
def _firewall_as_it_was() -> Iterator[None]:
    """An engine leaves its rules behind; they are taken away, unless there is another one that lives by them."""
    forwarding = Path("/proc/sys/net/ipv4/ip_forward")
    before = forwarding.read_text()
    try:
        rules = [_output("iptables-save", "-t", table) for table in ("filter", "nat")]
    except FileNotFoundError as error:
        raise NoEngine("iptables is not installed") from error
    try:
        yield
    finally:
        if not any("DOCKER" in each for each in rules):
            for each in rules:
                subprocess.run(["iptables-restore"], input=each, text=True, check=True)
            forwarding.write_text(before)


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


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
                # Another engine may have the usual one, and each project has its own.
                *("--bridge", "none"),
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
        for mounted in sorted(_mounted_below(folder), reverse=True):
            subprocess.run(["umount", mounted], check=True)
        shutil.rmtree(folder)


def _mounted_below(folder: Path) -> list[str]:
    """What it leaves mounted, such as the network of containers that have the machine's."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [path for path in (line.split(" ")[1] for line in mounts) if Path(path).is_relative_to(folder)]


def _answers(host: str) -> bool:
    command = ["docker", "--host", host, "version"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
