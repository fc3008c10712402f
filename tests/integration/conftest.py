"""Fixtures of the integration tests. All that need a broker run with each that `nrp up` knows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nrp_common.bus import BrokerAddress
from tests.brokers import embedded_broker
from tests.launchers import launcher, launchers, shared_launcher, storage
from tests.mosquitto import Mosquitto
from tests.simulation_servers import forker, servers, wire

__all__ = ["forker", "launcher", "launchers", "servers", "shared_launcher", "storage", "wire"]


@pytest.fixture(scope="session", params=["mosquitto", "embedded"])
def broker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerAddress]:
    """A running broker."""
    folder = tmp_path_factory.mktemp("broker")
    if request.param == "embedded":
        with embedded_broker(folder) as address:
            yield address
        return
    mosquitto = Mosquitto(folder)
    mosquitto.start()
    yield mosquitto.address
    mosquitto.stop()
