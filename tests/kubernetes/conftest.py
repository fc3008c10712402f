"""Fixtures of the Kubernetes tests: a cluster with its API, and launchers that place their simulations there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from nrp_common.bus import BrokerAddress
from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.cluster import Cluster
from tests.kubernetes.installation import ClusterLauncher
from tests.kubernetes.manifests import MANIFESTS
from tests.kubernetes.objects import Object
from tests.launchers import storage
from tests.storage_server import StorageServer

__all__ = ["storage"]


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """What launchers and simulations share."""
    folder = tmp_path / "volume"
    folder.mkdir()
    return folder


@pytest.fixture
def cluster(tmp_path: Path, volume: Path) -> Iterator[Cluster]:
    cluster = Cluster({"nrp-simulations": volume}, tmp_path)
    yield cluster
    cluster.close()


@pytest.fixture(scope="session")
def rules() -> list[Object]:
    """The rights that the manifests give launchers at the API."""
    documents = yaml.safe_load_all((MANIFESTS / "base" / "launcher-rights.yaml").read_text())
    return next(each["rules"] for each in documents if each["kind"] == "Role")


@pytest.fixture
def api(cluster: Cluster, rules: list[Object], tmp_path: Path) -> Iterator[KubernetesApi]:
    """The cluster's API."""
    with KubernetesApi(cluster, rules, tmp_path) as api:
        yield api


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template of the manifests, with an image."""
    job = yaml.safe_load((MANIFESTS / "base" / "simulation-job.yaml").read_text())
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "nrp-launcher:test"
    path = tmp_path_factory.mktemp("template") / "simulation-job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture
def cluster_launcher(
    broker: BrokerAddress, storage: StorageServer, volume: Path, cluster: Cluster, api: KubernetesApi, template: Path
) -> Iterator[ClusterLauncher]:
    """A launcher that is not started yet, of a cluster of its own. In the end nothing of it is left there."""
    launcher = ClusterLauncher(broker, storage, volume / "launcher", cluster, api, template)
    yield launcher
    api.heal()
    if not api.is_there:
        api.start()
    launcher.close()


@pytest.fixture(scope="module")
def shared_launcher(
    broker: BrokerAddress,
    storage: StorageServer,
    rules: list[Object],
    template: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[ClusterLauncher]:
    folder = tmp_path_factory.mktemp("shared")
    (folder / "volume").mkdir()
    cluster = Cluster({"nrp-simulations": folder / "volume"}, folder)
    with KubernetesApi(cluster, rules, folder) as api:
        launcher = ClusterLauncher(broker, storage, folder / "volume" / "launcher", cluster, api, template)
        launcher.start()
        launcher.await_ready()
        yield launcher
        launcher.close()
    cluster.close()


@pytest.fixture
def launcher(shared_launcher: ClusterLauncher) -> Iterator[ClusterLauncher]:
    """A launcher that takes launches. The tests of a module share it; in the end of each nothing is in its cluster."""
    yield shared_launcher
    shared_launcher.restore()
