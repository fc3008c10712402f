"""What a stack notes down in its data folder while it runs, so that other commands find it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

NAME: Final = "stack.json"


@dataclass(frozen=True)
class StackFile:
    """Where a stack can be reached.

    Attributes:
        pid: of the process that keeps the stack up.
        started_at: when that process began, in seconds since 1970: ids of processes are used again.
        url: of the REST API.
        mqtt: `host:port` of the broker for MQTT 3.1.1 clients.
        mqtt5: the same for MQTT 5 clients.
        websocket: the address for MQTT over WebSocket, None when the broker is somebody else's.
    """

    pid: int
    started_at: float
    url: str
    mqtt: str
    mqtt5: str
    websocket: str | None

    @classmethod
    def of_this_process(cls, url: str, mqtt: str, mqtt5: str, websocket: str | None) -> Self:
        """That of a stack which this process keeps up."""
        return cls(os.getpid(), _start_of(os.getpid()), url, mqtt, mqtt5, websocket)

    @property
    def is_up(self) -> bool:
        """Whether the process that keeps the stack up still runs."""
        return abs(_start_of(self.pid) - self.started_at) < 1.0

    def write(self, data: Path) -> None:
        """Put it into the data folder."""
        (data / NAME).write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, data: Path) -> Self | None:
        """That of the stack which last used the data folder, None when it ended in order or there was none."""
        try:
            return cls(**json.loads((data / NAME).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def remove_own(cls, data: Path) -> None:
        """Take away what this process wrote: its stack ends in order."""
        noted = cls.read(data)
        if noted is not None and noted.pid == os.getpid():
            (data / NAME).unlink(missing_ok=True)


def _start_of(pid: int) -> float:
    """When a process began, in seconds since 1970; 0 when there is none."""
    import psutil  # takes a while, which most commands need not wait for

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0
