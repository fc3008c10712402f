"""What all suites share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nrp_common.bus import BrokerAddress
from tests.mosquitto import Mosquitto
from tests.postgresql import PostgreSQL
from tests.side_by_side import BySharedFixtures, rank


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> BySharedFixtures:
    config.option.loadscopereorder = False  # ranks say more than numbers of tests
    return BySharedFixtures(config, log)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: rank(item.nodeid))


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
