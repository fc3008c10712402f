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


@pytest.fixture
def api(cluster: Cluster, tmp_path: Path) -> Iterator[KubernetesApi]:
    """The cluster's API, for callers with the rights that the manifests give launchers."""
    documents = yaml.safe_load_all((MANIFESTS / "base" / "launcher-rights.yaml").read_text())
    rules = next(each["rules"] for each in documents if each["kind"] == "Role")
    with KubernetesApi(cluster, rules, tmp_path) as api:
        yield api


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """The template of the manifests, with an image."""
    job = yaml.safe_load((MANIFESTS / "base" / "simulation-job.yaml").read_text())
    job["spec"]["template"]["spec"]["containers"][0]["image"] = "nrp-launcher:test"
    path = tmp_path / "simulation-job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@pytest.fixture
def cluster_launcher(
    broker: BrokerAddress, storage: StorageServer, volume: Path, cluster: Cluster, api: KubernetesApi, template: Path
) -> Iterator[ClusterLauncher]:
    """A launcher that is not started yet. In the end nothing of it is left in the cluster."""
    launcher = ClusterLauncher(broker, storage, volume / "launcher", cluster, api, template)
    yield launcher
    api.heal()
    if not api.is_there:
        api.start()
    launcher.close()


@pytest.fixture
def launcher(cluster_launcher: ClusterLauncher) -> ClusterLauncher:
    """A launcher that takes launches."""
    cluster_launcher.start()
    cluster_launcher.await_ready()
    return cluster_launcher
