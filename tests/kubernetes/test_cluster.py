"""A launcher's view of a cluster: the same of the tests' own, and of a real one where there is one.

A real one is named by NRP_TEST_KUBECONFIG, whose context has a namespace in which Jobs and Pods may be made; its nodes
run NRP_TEST_IMAGE (`busybox:1.36` when not given).
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import incluster_config

from nrp_simserver.placement.kubernetes import cluster as kubernetes_cluster
from nrp_simserver.placement.kubernetes.cluster import Cluster, ClusterUnavailable, JobRefused, connect
from nrp_simserver.placement.kubernetes.job_template import INCARNATION, LAUNCHER
from nrp_simserver.placement.kubernetes.standing import Over, Runs, Standing, Waits, standing_of
from tests.kubernetes.api import KubernetesApi
from tests.kubernetes.cluster import Cluster as FakeCluster
from tests.kubernetes.objects import Object
from tests.waiting import wait_until

WITHIN_S = 120.0
"""A real cluster pulls an image first."""


@dataclass
class Sighted:
    """A cluster as a launcher sees it, and what the tests make in it."""

    cluster: Cluster
    image: str
    launcher: str

    def job(self, command: str, *, image: str | None = None, cpu: str = "10m", **pod: Any) -> Object:
        incarnation = uuid.uuid4().hex
        labels = {LAUNCHER: self.launcher, INCARNATION: incarnation}
        container = {
            "name": "simulation",
            "image": image or self.image,
            "command": ["sh", "-c", command],
            "resources": {"requests": {"cpu": cpu, "memory": "16Mi"}},
        }
        return {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": f"nrp-test-{incarnation}", "labels": labels},
            "spec": {
                "backoffLimit": 0,
                "ttlSecondsAfterFinished": 600,
                "podFailurePolicy": {
                    "rules": [
                        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}
                    ]
                },
                "template": {
                    "metadata": {"labels": labels},
                    "spec": {
                        "restartPolicy": "Never",
                        "terminationGracePeriodSeconds": 1,
                        "containers": [container],
                        **pod,
                    },
                },
            },
        }

    def standing(self, job: Object) -> Standing:
        incarnation = job["metadata"]["labels"][INCARNATION]
        seen = self.cluster.sight_of(incarnation)
        return standing_of(seen.job, seen.pods, seen.last_pod, seen.lost)

    def await_standing(self, job: Object, condition: Callable[[Standing], object]) -> Standing:
        wait_until(lambda: condition(self.standing(job)), WITHIN_S)
        return self.standing(job)


@pytest.fixture(params=["own", "real"])
def sighted(request: pytest.FixtureRequest) -> Iterator[Sighted]:
    kubeconfig, image = os.environ.get("NRP_TEST_KUBECONFIG"), os.environ.get("NRP_TEST_IMAGE", "busybox:1.36")
    if request.param == "own":
        kubeconfig, image = str(request.getfixturevalue("api").kubeconfig), "nrp-launcher:test"
    elif kubeconfig is None:
        pytest.skip("there is no real cluster: NRP_TEST_KUBECONFIG names none")
    launcher = f"test-{uuid.uuid4().hex[:8]}"
    api, namespace = connect(Path(kubeconfig), "", "")
    cluster = Cluster(api, namespace, f"{LAUNCHER}={launcher}", lambda: None)
    cluster.start()
    wait_until(lambda: cluster.has_been_seen, 30)
    yield Sighted(cluster, image, launcher)
    for each in cluster.jobs().values():
        cluster.delete(each["metadata"]["name"])
    wait_until(lambda: not cluster.jobs(), WITHIN_S)
    cluster.close()


@pytest.mark.timeout(300)
def test_job_that_is_made_twice_is_there_once(sighted: Sighted) -> None:
    job = sighted.job("sleep 600")
    sighted.cluster.create(job)
    sighted.cluster.create(job)
    other = sighted.job("sleep 600")
    other["metadata"]["name"] = job["metadata"]["name"]
    with pytest.raises(JobRefused, match="another Job"):
        sighted.cluster.create(other)
    sighted.await_standing(job, lambda standing: standing == Runs())
    assert list(sighted.cluster.jobs()) == [job["metadata"]["labels"][INCARNATION]]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", ["label", "volume", "field"])
def test_job_that_cannot_be_is_refused_in_the_api_s_words(sighted: Sighted, fault: str) -> None:
    job = sighted.job("true")
    match fault:
        case "label":
            job["metadata"]["labels"]["site"] = "not a label"
        case "volume":
            mount = {"name": "nothing", "mountPath": "/mnt"}
            job["spec"]["template"]["spec"]["containers"][0]["volumeMounts"] = [mount]
        case "field":
            job["spec"]["template"]["spec"]["restartPolicy"] = "Always"
    with pytest.raises(JobRefused, match=r"site|label|nothing|restartPolicy"):
        sighted.cluster.create(job)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("exit 0", "The simulation server ended with exit code 0"),
        ("exit 3", "The simulation server ended with exit code 3"),
        ("kill -SEGV $$", "The simulation server was killed by SIGSEGV"),
    ],
)
def test_container_that_ends_is_told_with_its_status(sighted: Sighted, command: str, how: str) -> None:
    job = sighted.job(command)
    sighted.cluster.create(job)
    assert sighted.await_standing(job, lambda standing: isinstance(standing, Over)) == Over(how, by_cluster=False)


@pytest.mark.timeout(300)
def test_job_without_room_waits_and_can_be_taken_back(sighted: Sighted) -> None:
    job = sighted.job("true", cpu="100000")
    sighted.cluster.create(job)
    standing = sighted.await_standing(job, lambda standing: "Unschedulable" in str(standing))
    assert isinstance(standing, Waits)
    assert re.search(r"nodes are available: .*Insufficient cpu", standing.reason)
    sighted.cluster.delete(job["metadata"]["name"])
    sighted.cluster.delete(job["metadata"]["name"])
    standing = sighted.await_standing(job, lambda standing: isinstance(standing, Over))
    assert isinstance(standing, Over)
    assert standing.by_cluster


@pytest.mark.timeout(300)
def test_image_that_is_nowhere_is_waited_for_with_the_reason(sighted: Sighted) -> None:
    job = sighted.job("true", image="nrp-test.invalid/nothing:1")
    sighted.cluster.create(job)
    sighted.await_standing(job, lambda standing: re.search("ErrImagePull|ImagePullBackOff", str(standing)))


@pytest.mark.timeout(300)
def test_pod_that_runs_for_longer_than_it_may_is_ended(sighted: Sighted) -> None:
    job = sighted.job("sleep 600", activeDeadlineSeconds=2)
    sighted.cluster.create(job)
    standing = sighted.await_standing(job, lambda standing: isinstance(standing, Over))
    assert standing == Over(
        "The simulation ran for longer than the 2 s that its Pod may (limit timeLimit)", by_cluster=True
    )


@pytest.mark.timeout(300)
def test_container_goes_with_its_job(sighted: Sighted) -> None:
    job = sighted.job("trap 'exit 0' TERM; while true; do sleep 0.1; done")
    sighted.cluster.create(job)
    sighted.await_standing(job, lambda standing: standing == Runs())
    sighted.cluster.delete(job["metadata"]["name"])
    standing = sighted.await_standing(job, lambda standing: isinstance(standing, Over))
    assert isinstance(standing, Over)
    assert standing.by_cluster
    wait_until(lambda: not sighted.cluster.sight_of(job["metadata"]["labels"][INCARNATION]).pods, WITHIN_S)


@pytest.mark.timeout(300)
def test_container_that_is_killed_has_no_time_for_anything(sighted: Sighted) -> None:
    job = sighted.job("trap '' TERM; while true; do sleep 0.1; done", terminationGracePeriodSeconds=600)
    sighted.cluster.create(job)
    sighted.await_standing(job, lambda standing: standing == Runs())
    incarnation = job["metadata"]["labels"][INCARNATION]
    pods = [each["metadata"]["name"] for each in sighted.cluster.sight_of(incarnation).pods]
    sighted.cluster.delete(job["metadata"]["name"], pods, grace_s=1)
    sighted.await_standing(job, lambda standing: isinstance(standing, Over))


def test_image_is_that_of_the_launcher_s_own_pod(cluster: FakeCluster, api: KubernetesApi) -> None:
    pod = {
        "spec": {"containers": [{"name": "launcher", "image": "registry/nrp-launcher:7"}]},
        "status": {"phase": "Running"},
    }
    cluster.objects.add({"kind": "Pod", "metadata": {"name": "launcher-0", "namespace": "nrp"}, **pod})
    client, namespace = connect(api.kubeconfig, "", "")
    seen = Cluster(client, namespace, "none=none", lambda: None)
    assert seen.own_image("launcher-0") == "registry/nrp-launcher:7"
    with pytest.raises(JobRefused, match="no Pod 'launcher-1'"):
        seen.own_image("launcher-1")
    api.stop()
    with pytest.raises(ClusterUnavailable):
        seen.own_image("launcher-0")


def test_launcher_in_a_pod_uses_the_access_that_pods_get(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(api.TOKEN)
    (tmp_path / "namespace").write_text("nrp\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(api.certificate))
    monkeypatch.setattr(kubernetes_cluster, "IN_A_POD", tmp_path / "namespace")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(api.port))
    client, namespace = connect(None, "", "")
    assert namespace == "nrp"
    assert Cluster(client, namespace, "", lambda: None).look_at("job", "incarnation").job is None
    assert connect(None, "", "other")[1] == "other"


@pytest.mark.parametrize(("said", "pause_s"), [(None, 0.0), (7, 7.0), (100_000, 30.0)])
def test_api_that_says_for_how_long_is_left_alone_for_so_long(
    api: KubernetesApi, said: int | None, pause_s: float
) -> None:
    client, namespace = connect(api.kubeconfig, "", "")
    api.answer(429, retry_after=said)
    with pytest.raises(ClusterUnavailable) as refusal:
        Cluster(client, namespace, "", lambda: None).look_at("job", "incarnation")
    assert refusal.value.retry_after_s == pause_s


def test_failures_in_a_row_are_followed_by_ever_longer_pauses() -> None:
    pauses = [kubernetes_cluster.delay_after(failures) for failures in range(10)]
    assert pauses[0] < 0.2
    assert all(5.0 <= each <= 7.5 for each in pauses[5:])
