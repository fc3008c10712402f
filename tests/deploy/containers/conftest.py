"""The images of deploy/, built for real, and what its compose file makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.containers import debian_images
from tests.deploy.containers.debian_images import NoImages
from tests.deploy.containers.engine import Engine
from tests.deploy.containers.images import BUILD_TIMEOUT_S, Images, build_all
from tests.deploy.containers.installation import Installation


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Images are built before the first of these tests, and containers take seconds to be ready."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))


@pytest.fixture(scope="package")
def images(engine: Engine, mosquitto_image: str) -> Images:
    """The images of gateway and launcher, and the broker's, by the settings that name them."""
    try:
        return {"NRP_MOSQUITTO_IMAGE": mosquitto_image, **build_all(engine)}
    except NoImages as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="package")
def bring_up(
    engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Installation]]:
    """Makes installations, and takes down at the end what is left of them."""
    made: list[Installation] = []

    def bring_up(settings: dict[str, str] | None = None, **options: Any) -> Installation:
        installation = Installation(engine, tmp_path_factory.mktemp("deploy"), images, settings, **options)
        made.append(installation)
        return installation

    yield bring_up
    for installation in made:
        if installation.left():
            installation.down("--volumes", "--timeout", "5")


@pytest.fixture(scope="package")
def installation(bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """The service as `docker compose up` has it."""
    installation = bring_up()
    installation.up()
    yield installation
    installation.down("--volumes", "--timeout", "5")


@pytest.fixture(scope="package")
def scaled(engine: Engine, bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """With three launchers, each for two simulations, and two gateways, which share a PostgreSQL."""
    try:
        image = debian_images.make(debian_images.postgresql(), "nrp-test/postgresql", engine.command)
    except NoImages as reason:
        pytest.skip(str(reason))
    settings = {
        "NRP_CAPACITY": "2",
        "NRP_POSTGRESQL_IMAGE": image,
        "NRP_CATALOGUE_URL_FILE": "/run/secrets/nrp/catalogue_url",
    }
    installation = bring_up(settings, gateways=2)
    installation.up("launcher", "postgresql", profiles=("postgresql",), gateway=2, launcher=3)
    yield installation
    installation.down("--volumes", "--timeout", "5")
