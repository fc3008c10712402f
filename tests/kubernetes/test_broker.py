"""The broker of the manifests lets everybody do what they need, and nothing else: the same as a lab's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nrp_common.access import launcher_rights
from nrp_common.dynamic_security import role
from nrp_common.topics import Topics
from tests.access_table import IDS, MATRIX, clients_of, is_taken
from tests.kubernetes.broker import ManifestBroker
from tests.kubernetes.manifests import OVERLAYS, Manifests, render
from tests.secured_broker import Client
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> Manifests:
    return Manifests(render(OVERLAYS[0], tmp_path_factory.mktemp("manifests")))


@pytest.fixture(scope="module")
def broker(manifests: Manifests, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ManifestBroker]:
    broker = ManifestBroker(manifests, tmp_path_factory.mktemp("broker"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="module")
def clients(broker: ManifestBroker) -> Iterator[dict[str, Client]]:
    with clients_of(broker.secured) as clients:
        yield clients


@pytest.mark.parametrize(("who", "what", "topic", "is_allowed"), MATRIX, ids=IDS)
def test_the_table(clients: dict[str, Client], who: str, what: str, topic: str, is_allowed: str) -> None:
    assert is_taken(clients[who], "", what, topic) is (is_allowed == "yes")


def test_nobody_gets_in_without_a_password(broker: ManifestBroker) -> None:
    gateway = broker.secured.address("gateway")
    for address in (broker.secured.stranger, replace(gateway, password="wrong"), replace(gateway, username="root")):
        with Client(address) as client:
            assert str(client.connection) == "Not authorized"


def test_frontends_get_in_by_websocket(broker: ManifestBroker, clients: dict[str, Client]) -> None:
    with Client(broker.secured.address("frontend"), websocket=broker.secured.websocket) as frontend:
        assert frontend.may_subscribe("#")
        assert clients["simulation"].may_publish(Topics().status(7), b"said")
        wait_until(lambda: (Topics().status(7), b"said") in frontend.heard)


@pytest.mark.parametrize("probe", ["readinessProbe", "livenessProbe"])
def test_its_probes_find_it_well(broker: ManifestBroker, clients: dict[str, Client], probe: str) -> None:
    done = broker.probe(probe)
    assert done.returncode == 0, done.stderr


def test_its_simulations_and_rights_of_this_version_are_there_after_a_restart(
    manifests: Manifests, tmp_path_factory: pytest.TempPathFactory
) -> None:
    broker, simulation = ManifestBroker(manifests, tmp_path_factory.mktemp("restarted")), "nrp-simulation::one:7:x"
    broker.start()
    try:
        with Client(broker.secured.address("launcher")) as launcher:
            launcher.order("createRole", rolename=simulation, acls=[])
            launcher.order("createClient", username=simulation, password="p", roles=[{"rolename": simulation}])
            of_an_earlier_version = role("nrp_launcher", "Launchers", launcher_rights(Topics()))["acls"][1:]
            launcher.order("modifyRole", rolename="nrp_launcher", acls=of_an_earlier_version)
        broker.stop()
        assert broker.probe("livenessProbe").returncode != 0
        assert "wrote the rights of Launchers anew" in broker.prepare().replace("\n", " ")
        broker.start()
        assert broker.secured.simulations == {simulation}
        with Client(broker.secured.address("launcher")) as launcher:
            assert launcher.may_publish(Topics().launcher_presence("one"))
    finally:
        broker.stop()
