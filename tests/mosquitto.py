"""A Mosquitto of the tests' own, on a free port, that can go away and come back."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from pathlib import Path

from nrp_common.bus import BrokerAddress
from tests.ports import free_port
from tests.waiting import wait_until

CONFIGURATION = """\
listener {port} 127.0.0.1
allow_anonymous true
set_tcp_nodelay true
max_queued_messages 10000
persistence false
"""

REMEMBERING = CONFIGURATION.replace(
    "persistence false",
    "persistence true\npersistence_location {folder}/\nautosave_interval 1\nautosave_on_changes true",
)
"""What is retained is written down at once, and survives."""

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")


class Mosquitto:
    """The broker, not running yet.

    Args:
        folder: for its files.
        configuration: with `{port}` for the port that it gets, and `{folder}`.
    """

    def __init__(self, folder: Path, configuration: str = CONFIGURATION) -> None:
        assert MOSQUITTO, "these tests need Mosquitto"
        self.address = BrokerAddress("127.0.0.1", free_port())
        self._configuration = folder / "mosquitto.conf"
        self._configuration.write_text(configuration.format(port=self.address.port, folder=folder))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Run, and return when it takes connections."""
        assert MOSQUITTO
        self._process = subprocess.Popen(
            [MOSQUITTO, "-c", str(self._configuration)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(self._answers)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, signal_number: int = signal.SIGKILL) -> None:
        """Go away; what it was not told to write down it forgets."""
        if self._process is not None:
            self._process.send_signal(signal_number)
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Keep the connections, and do nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Go on after `freeze`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _answers(self) -> bool:
        try:
            socket.create_connection((self.address.host, self.address.port), timeout=1).close()
        except OSError:
            return False
        return True
