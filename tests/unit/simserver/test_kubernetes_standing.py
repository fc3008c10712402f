"""How a simulation server stands, from what a cluster tells of its Job and its Pods."""

from __future__ import annotations

from typing import Any

import pytest

from nrp_simserver.placement.kubernetes.standing import Over, Runs, Waits, standing_of


def job(*conditions: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "job"}, "status": {"conditions": list(conditions)} if conditions else {}}


def condition(kind: str, reason: str = "", message: str = "", status: str = "True") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def pod(
    phase: str = "Pending",
    *conditions: dict[str, str],
    name: str = "pod",
    is_deleted: bool = False,
    status: dict[str, Any] | None = None,
    **state: dict[str, Any],
) -> dict[str, Any]:
    metadata = {"name": name, **({"deletionTimestamp": "2026-11-26T19:00:00Z"} if is_deleted else {})}
    containers = [{"name": "sidecar", "state": {"running": {}}}, {"name": "simulation", "state": state}]
    limits = {"resources": {"limits": {"memory": "4Gi"}}}
    return {
        "metadata": metadata,
        "spec": {"nodeName": "node-1", "containers": [{"name": "simulation", **limits}], "activeDeadlineSeconds": 60},
        "status": {"phase": phase, "conditions": list(conditions), "containerStatuses": containers, **(status or {})},
    }


def ended(code: int = 0, reason: str = "Error", **more: str) -> dict[str, Any]:
    return {"exitCode": code, "reason": reason, **more}


FAILED = condition("Failed", "BackoffLimitExceeded", "Job has reached the specified backoff limit")


@pytest.mark.parametrize(
    ("pods", "reason"),
    [
        ([], "Kubernetes has made no Pod for it yet"),
        ([{"metadata": {"name": "pod"}, "spec": {}, "status": {}}], "It is being scheduled"),
        (
            [pod("Pending", condition("PodScheduled", "Unschedulable", "0/3 nodes\n are available", "False"))],
            "Unschedulable: 0/3 nodes are available",
        ),
        ([pod(waiting={"reason": "ContainerCreating"})], "Its container is being made on node-1"),
        ([pod(waiting={"reason": "ErrImagePull", "message": "not found"})], "ErrImagePull: not found"),
        ([pod(waiting={"reason": "CreateContainerConfigError"})], "CreateContainerConfigError"),
        ([pod("Pending", condition("PodScheduled", status="False"))], "no reason was given"),
    ],
)
def test_server_that_does_not_run_waits_for_a_reason(pods: list[dict[str, Any]], reason: str) -> None:
    assert standing_of(job(), pods, None) == Waits(reason)


def test_server_whose_pod_runs_runs_whatever_is_said_of_its_job() -> None:
    running = pod("Running", running={})
    for each in (job(), None, job(FAILED)):
        assert standing_of(each, [running], None) == Runs()
    assert standing_of(job(), [pod("Failed", name="other", terminated=ended(1)), running], None) == Runs()


@pytest.mark.parametrize(
    ("of_job", "of_pod", "how", "by_cluster"),
    [
        (job(FAILED), pod("Failed", terminated=ended(3)), "The simulation server ended with exit code 3", False),
        (job(), pod("Succeeded", terminated=ended()), "The simulation server ended with exit code 0", False),
        (None, pod("Failed", terminated=ended(137)), "The simulation server was killed by SIGKILL", False),
        (job(), pod("Failed", terminated=ended(139)), "The simulation server was killed by SIGSEGV", False),
        (job(), pod("Failed", terminated=ended(255)), "The simulation server ended with exit code 255", False),
        (
            job(),
            pod("Failed", terminated=ended(1, message="no module\n")),
            "The simulation server ended with exit code 1; its container said last:\nno module",
            False,
        ),
        (
            job(FAILED),
            pod("Failed", terminated=ended(137, "OOMKilled")),
            "The simulation used more memory than it may (4Gi): OOMKilled",
            True,
        ),
        (
            job(FAILED),
            pod("Failed", status={"reason": "Evicted", "message": "The node was low on memory. "}),
            "The simulation was evicted from its node: The node was low on memory.",
            True,
        ),
        (
            job(),
            pod("Failed", status={"reason": "DeadlineExceeded"}, terminated=ended(0)),
            "The simulation ran for longer than the 60 s that its Pod may (limit timeLimit)",
            True,
        ),
        (
            job(FAILED),
            pod("Failed", condition("DisruptionTarget", "EvictionByEvictionAPI", "evicting"), is_deleted=True),
            "The cluster ended the Pod of the simulation: EvictionByEvictionAPI: evicting",
            True,
        ),
        (
            job(condition("FailureTarget", "DeadlineExceeded")),
            pod("Failed", is_deleted=True, terminated=ended(0)),
            "Kubernetes ended the simulation, as its Job was active for longer than it may",
            True,
        ),
        (
            job(FAILED),
            pod("Succeeded", is_deleted=True, terminated=ended(0)),
            "The Pod of the simulation was deleted",
            True,
        ),
        (None, pod("Succeeded", is_deleted=True, terminated=ended(0)), "The Job of the simulation was deleted", True),
        (
            job(),
            pod("Failed", status={"reason": "UnexpectedAdmissionError", "message": "no GPU"}),
            "The Pod of the simulation failed: UnexpectedAdmissionError: no GPU",
            True,
        ),
        (
            job(),
            pod("Failed", terminated=ended(128, "StartError", message="no such file")),
            "The container of the simulation could not be started: no such file",
            True,
        ),
    ],
)
def test_end_is_told_in_words(
    of_job: dict[str, Any] | None, of_pod: dict[str, Any], how: str, by_cluster: bool
) -> None:
    assert standing_of(of_job, [of_pod], None) == Over(how, by_cluster=by_cluster)


def test_what_was_last_seen_of_a_pod_counts_when_it_is_gone() -> None:
    evicted = pod("Failed", status={"reason": "Evicted", "message": "The node was low on memory."})
    for each in (job(FAILED), None):
        assert standing_of(each, [], evicted) == standing_of(job(FAILED), [evicted], None)


def test_pod_that_ran_when_it_was_last_seen_and_is_gone_was_deleted() -> None:
    for each in (job(), job(FAILED)):
        standing = standing_of(each, [], pod("Running", running={}))
        assert standing == Over("The Pod of the simulation was deleted", by_cluster=True)


def test_job_that_ended_without_a_pod_is_told_with_its_own_reason() -> None:
    assert standing_of(job(FAILED), [], None) == Over(
        "The Job of the simulation ended: BackoffLimitExceeded: Job has reached the specified backoff limit",
        by_cluster=True,
    )
    assert standing_of(None, [], None) == Over("The Job of the simulation was deleted", by_cluster=True)


def test_pod_on_a_node_that_is_lost_is_the_end() -> None:
    standing = standing_of(job(), [pod("Running", is_deleted=True, running={})], None, ["pod"])
    assert standing == Over("The cluster lost its node node-1, and the simulation with it", by_cluster=True)
