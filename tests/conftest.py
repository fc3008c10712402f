"""What all suites share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nrp_common.bus import BrokerAddress
from tests.mosquitto import Mosquitto
from tests.postgresql import PostgreSQL


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerAddress]:
    """A running Mosquitto."""
    mosquitto = Mosquitto(tmp_path_factory.mktemp("broker"))
    mosquitto.start()
    yield mosquitto.address
    mosquitto.stop()


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL."""
    postgresql = PostgreSQL()
    yield postgresql
    postgresql.close()
