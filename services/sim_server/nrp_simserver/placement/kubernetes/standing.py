"""How a simulation server stands, as its Job and its Pods tell it."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from nrp_simserver.placement.kubernetes.job_template import CONTAINER, Manifest
from nrp_simserver.server_end import describe_exit

SIGNALS: Final = 128
"""A container that a signal killed ends with this exit code plus the signal's number."""

LARGEST_SIGNAL: Final = 64

STARTING: Final = ("ContainerCreating", "PodInitializing")


@dataclass(frozen=True)
class Waits:
    """It waits for a place to run at.

    Attributes:
        reason: why, in Kubernetes' words.
    """

    reason: str


@dataclass(frozen=True)
class Runs:
    """It runs."""


@dataclass(frozen=True)
class Over:
    """It has ended, or will never run.

    Attributes:
        how: in a sentence.
        by_cluster: whether it was the cluster, or somebody in it, that had it end.
    """

    how: str
    by_cluster: bool


Standing = Waits | Runs | Over


def standing_of(
    job: Manifest | None, pods: Collection[Manifest], last_pod: Manifest | None, lost: Collection[str] = ()
) -> Standing:
    """How a simulation server stands.

    Args:
        job: its Job, None when that was deleted.
        pods: the Job's Pods that there are.
        last_pod: what was last seen of a Pod that is not there any more.
        lost: the names of Pods on nodes that the cluster has lost.
    """
    there = [each for each in pods if not _has_ended(each) and each["metadata"]["name"] not in lost]
    if any(_is_running(each) for each in there):
        return Runs()
    if there:
        return Waits(_why_pending(there[0]))
    missing = [each for each in pods if not _has_ended(each)]
    if missing:
        node = missing[0]["spec"].get("nodeName", "?")
        return Over(f"The cluster lost its node {node}, and the simulation with it", by_cluster=True)
    ended = next(iter(pods), last_pod)
    if job is not None and ended is None and not _failure(job) and not _condition(job, "Complete"):
        return Waits("Kubernetes has made no Pod for it yet")
    return _over(job, ended)


def _over(job: Manifest | None, pod: Manifest | None) -> Over:
    failure = _failure(job) if job is not None else None
    if pod is not None and (by_cluster := _cluster_reason(pod)) is not None:
        return Over(by_cluster, by_cluster=True)
    if failure is not None and failure.get("reason") == "DeadlineExceeded":
        return Over("Kubernetes ended the simulation, as its Job was active for longer than it may", by_cluster=True)
    terminated = _terminated(pod) if pod is not None else None
    was_deleted = pod is not None and "deletionTimestamp" in pod["metadata"]
    if terminated is not None and not was_deleted:
        said = (terminated.get("message") or "").strip()
        words = f"; its container said last:\n{said}" if said else ""
        return Over(f"The simulation server {describe_exit(_exit_code(terminated))}{words}", by_cluster=False)
    if job is None:
        return Over("The Job of the simulation was deleted", by_cluster=True)
    if was_deleted or (pod is not None and not _has_ended(pod)):  # it was there when last seen, and is no more
        return Over("The Pod of the simulation was deleted", by_cluster=True)
    told = _sentence(failure) if failure is not None else ""
    return Over(f"The Job of the simulation ended{': ' if told else ''}{told}", by_cluster=True)


def _cluster_reason(pod: Manifest) -> str | None:
    """What the cluster did to a Pod, in words; None when it ended by itself."""
    status, terminated = pod.get("status") or {}, _terminated(pod)
    if status.get("reason") == "DeadlineExceeded":
        most = pod["spec"].get("activeDeadlineSeconds", "?")
        return f"The simulation ran for longer than the {most} s that its Pod may (limit timeLimit)"
    if terminated is not None and terminated.get("reason") == "OOMKilled":
        most = _limit(pod, "memory")
        return f"The simulation used more memory than it may{f' ({most})' if most else ''}: OOMKilled"
    if status.get("reason") == "Evicted":
        return f"The simulation was evicted from its node: {status.get('message', '').strip() or 'no reason was given'}"
    if (disruption := _condition(pod, "DisruptionTarget")) is not None:
        return f"The cluster ended the Pod of the simulation: {_sentence(disruption)}"
    if terminated is not None and terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        return f"The container of the simulation could not be started: {terminated.get('message', '')}"
    if terminated is None and status.get("reason"):  # NodeLost, UnexpectedAdmissionError, ...
        return f"The Pod of the simulation failed: {status['reason']}: {status.get('message', '')}"
    return None


def _why_pending(pod: Manifest) -> str:
    scheduled = _condition(pod, "PodScheduled", "False")
    if scheduled is not None:
        return _sentence(scheduled)
    for waiting in _states(pod, "waiting"):
        if waiting.get("reason") not in STARTING:
            return _sentence(waiting)
    node = (pod.get("spec") or {}).get("nodeName")
    return f"Its container is being made on {node}" if node else "It is being scheduled"


def _is_running(pod: Manifest) -> bool:
    return _phase(pod) == "Running"


def _has_ended(pod: Manifest) -> bool:
    return _phase(pod) in ("Succeeded", "Failed")


def _phase(pod: Manifest) -> str:
    return str((pod.get("status") or {}).get("phase", "Pending"))


def _condition(each: Manifest, kind: str, status: str = "True") -> Manifest | None:
    conditions = (each.get("status") or {}).get("conditions") or []
    return next((it for it in conditions if it["type"] == kind and it["status"] == status), None)


def _failure(job: Manifest) -> Manifest | None:
    """Why a Job has failed, or is about to as soon as its Pods have ended."""
    return _condition(job, "Failed") or _condition(job, "FailureTarget")


def _states(pod: Manifest, state: str) -> list[Manifest]:
    statuses = (pod.get("status") or {}).get("containerStatuses") or []
    return [
        each["state"][state] for each in statuses if each["name"] == CONTAINER and state in (each.get("state") or {})
    ]


def _terminated(pod: Manifest) -> Manifest | None:
    return next(iter(_states(pod, "terminated")), None)


def _exit_code(terminated: Manifest) -> int:
    code = int(terminated.get("exitCode", 0))
    return SIGNALS - code if SIGNALS < code <= SIGNALS + LARGEST_SIGNAL else code


def _limit(pod: Manifest, resource: str) -> str | None:
    for container in pod["spec"].get("containers") or []:
        if container["name"] == CONTAINER:
            limits = (container.get("resources") or {}).get("limits") or {}
            return limits.get(resource)
    return None


def _sentence(condition: Manifest) -> str:
    reason, message = condition.get("reason") or "", re.sub(r"\s+", " ", condition.get("message") or "").strip()
    return f"{reason}: {message}" if reason and message else reason or message or "no reason was given"
