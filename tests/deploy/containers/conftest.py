"""The images of deploy/, built for real, and what its compose file makes of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.deploy.containers import debian_images
from tests.deploy.containers.engine import Engine, NoEngine, docker_engine
from tests.deploy.containers.installation import DEPLOY, Installation

Images = dict[str, str]

BUILD_TIMEOUT_S = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Images are built before the first of these tests, and containers take seconds to be ready."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(BUILD_TIMEOUT_S))


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    """A Docker engine."""
    try:
        with docker_engine() as engine:
            yield engine
    except NoEngine as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def bases(engine: Engine) -> Images:
    """What ours are built on and run beside, by what names it: stand-ins made of this machine's packages."""
    try:
        return {
            "PYTHON": debian_images.make(debian_images.PYTHON, "nrp-test/python", engine.command),
            "NRP_MOSQUITTO_IMAGE": debian_images.make(debian_images.MOSQUITTO, "nrp-test/mosquitto", engine.command),
        }
    except debian_images.NoImages as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def images(engine: Engine, bases: Images) -> Images:
    """The images of gateway and launcher, and the broker's."""
    with ThreadPoolExecutor() as pool:
        gateway, launcher = pool.map(lambda target: build(engine, target, bases["PYTHON"]), ("gateway", "launcher"))
    return bases | {"NRP_GATEWAY_IMAGE": gateway, "NRP_LAUNCHER_IMAGE": launcher}


def build(engine: Engine, target: str, python: str) -> str:
    """Build one of our images on this one. Returns its name."""
    name = f"nrp-test/{target}"
    options = ["--network", "host", "--build-arg", f"PYTHON={python}", "--target", target, "--tag", name]
    built = subprocess.run(
        engine.command("build", *options, "--file", DEPLOY / "Dockerfile", DEPLOY.parent),
        env=engine.environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S,
        check=False,
    )
    assert built.returncode == 0, built.stdout + built.stderr
    return name


@pytest.fixture(scope="session")
def bring_up(
    engine: Engine, images: Images, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Installation]]:
    """Makes installations, and takes down at the end what is left of them."""
    made: list[Installation] = []

    def bring_up(settings: dict[str, str] | None = None, *, gateways: int = 1) -> Installation:
        installation = Installation(engine, tmp_path_factory.mktemp("deploy"), images, settings, gateways=gateways)
        made.append(installation)
        return installation

    yield bring_up
    for installation in made:
        if installation.left():
            installation.down("--volumes", "--timeout", "5")


@pytest.fixture(scope="session")
def installation(bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """The service as `docker compose up` has it."""
    installation = bring_up()
    installation.up()
    yield installation
    installation.down("--volumes", "--timeout", "5")


@pytest.fixture(scope="session")
def scaled(engine: Engine, bring_up: Callable[..., Installation]) -> Iterator[Installation]:
    """With three launchers, each for two simulations, and two gateways, which share a PostgreSQL."""
    try:
        image = debian_images.make(debian_images.postgresql(), "nrp-test/postgresql", engine.command)
    except debian_images.NoImages as reason:
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
