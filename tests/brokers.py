"""The brokers that `nrp up` knows, for suites that both have to pass."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nrp_cli.local_broker import PortWishes, plan_broker
from nrp_common.bus import BrokerAddress
from tests.waiting import wait_until


@dataclass(frozen=True)
class TwoPortBroker(BrokerAddress):
    """A broker that serves MQTT 3.1.1 on a port of its own."""

    plain_port: int = 0


def plain_port(broker: BrokerAddress) -> int:
    """Where a broker serves MQTT 3.1.1."""
    return broker.plain_port if isinstance(broker, TwoPortBroker) else broker.port


@contextmanager
def embedded_broker(folder: Path) -> Iterator[TwoPortBroker]:
    """Run the embedded broker."""
    plan = plan_broker("embedded", PortWishes(0, 0, 0), folder)
    with subprocess.Popen(plan.command) as process:
        try:
            address = TwoPortBroker("127.0.0.1", plan.mqtt5_port, plain_port=plan.mqtt_port)
            wait_until(lambda: all(_listens(port) for port in plan.ports))
            yield address
        finally:
            process.kill()


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
