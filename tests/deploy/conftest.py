"""Fixtures of the tests of deployments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.deploy.containers import debian_images
from tests.deploy.containers.debian_images import NoImages
from tests.deploy.containers.engine import Engine, NoEngine, docker_engine
from tests.gateways import no_settings_from_outside
from tests.launchers import launchers, storage
from tests.simulation_servers import forker, servers, wire

__all__ = ["forker", "launchers", "no_settings_from_outside", "servers", "storage", "wire"]


@pytest.fixture(scope="package")
def engine() -> Iterator[Engine]:
    """A Docker engine."""
    try:
        with docker_engine() as engine:
            yield engine
    except NoEngine as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def mosquitto_image(engine: Engine) -> str:
    """The name of an image of Mosquitto."""
    try:
        return debian_images.make(debian_images.MOSQUITTO, "nrp-test/mosquitto", engine.command)
    except NoImages as reason:
        pytest.skip(str(reason))
