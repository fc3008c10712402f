"""A cluster in this process: a job controller, a scheduler, nodes that run containers, and what befalls them.

It does what Kubernetes documents, for Jobs of one Pod of one container; a test says what goes wrong. Containers are
plain processes here, so a volume is found at its mount path only where the test put it there.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.kubernetes.objects import Object, Objects, labels_of, now

GRACE_S: Final = 30
"""Between the signal and the kill, where a Pod does not say."""

BACK_OFF_AFTER: Final = 2
"""After how many attempts to pull an image the node waits before the next."""

GPU: Final = "nvidia.com/gpu"

POD: Final = "TEST_POD"
"""The environment variable that tells which processes would be in a container's own process namespace."""

_SUFFIXES: Final = {
    "m": 1e-3,
    "k": 1e3,
    "M": 1e6,
    "G": 1e9,
    "T": 1e12,
    "Ki": 2**10,
    "Mi": 2**20,
    "Gi": 2**30,
    "Ti": 2**40,
}


def amount(quantity: Any) -> float:
    """A quantity as a number: "250m", "4Gi", 2."""
    number, suffix = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(quantity)).groups()  # type: ignore[union-attr]
    return float(number) * (_SUFFIXES[suffix] if suffix else 1)


@dataclass
class Node:
    """A machine of the cluster.

    Attributes:
        name: of it.
        resources: what it has, by name.
        labels: what it is.
        is_alive: whether the cluster hears of it.
    """

    name: str
    resources: dict[str, float]
    labels: dict[str, str] = field(default_factory=dict)
    is_alive: bool = True


@dataclass
class _Container:
    """A process that a node started for a Pod."""

    process: subprocess.Popen[bytes]
    pod: str
    since: float = field(default_factory=time.monotonic)
    kill_at: float | None = None
    reason: str | None = None  # told for the process's own exit status
    overdue: bool = False  # it ran for longer than its Pod may


class Cluster:
    """The cluster, running until it is closed.

    Args:
        claims: where the volumes are, by the names of their claims.
        folder: for what containers write to their stdout and stderr.

    Attributes:
        objects: its Jobs and Pods.
        images: that nodes can pull.
        nodes: its machines; one with 64 cores and 256 GiB to begin with.
        starts_pods: whether the job controller works.
    """

    def __init__(self, claims: dict[str, Path], folder: Path) -> None:
        self.objects = Objects()
        self.images = {"nrp-launcher:test"}
        self.nodes = [Node("node-1", {"cpu": 64, "memory": 256 * 2**30, GPU: 0})]
        self.starts_pods = True
        self._claims = claims
        self._folder = folder
        self._containers: dict[str, _Container] = {}  # by the names of their Pods
        self._orphans: list[_Container] = []  # of nodes that are lost
        self._failures: dict[str, int] = {}  # of pulls, likewise
        self._since: dict[str, float] = {}  # when Jobs were started, by their uids
        self._finished: dict[str, float] = {}  # when they were finished, likewise
        self._with_pods: set[str] = set()  # the uids of those that got one
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cluster", daemon=True)
        self._thread.start()

    def heal(self) -> None:
        """All nodes are there again, and the image is."""
        with self.objects.changed:
            self.images.add("nrp-launcher:test")
            self.starts_pods = True
            for node in self.nodes:
                node.is_alive = True

    def close(self) -> None:
        """End everything that runs."""
        self._is_over.set()
        self._thread.join()
        for container in [*self._containers.values(), *self._orphans]:
            _signal(container, signal.SIGKILL)
            container.process.wait()

    # -- what a test sees and does -------------------------------------------------------------------------------------

    @property
    def jobs(self) -> list[Object]:
        return self.objects.all("Job")

    @property
    def pods(self) -> list[Object]:
        return self.objects.all("Pod")

    def pod_of(self, job: str) -> Object | None:
        """The Pod of a Job, None when there is none."""
        return next((each for each in self.pods if labels_of(each).get("batch.kubernetes.io/job-name") == job), None)

    def process_of(self, job: str) -> subprocess.Popen[bytes]:
        """What runs in a Job's container."""
        pod = self.pod_of(job)
        assert pod is not None
        return self._containers[pod["metadata"]["name"]].process

    def output_of(self, pod: str) -> str:
        """What a Pod's container wrote."""
        return (self._folder / f"{pod}.log").read_text()

    def kill(self, pod: str, number: int = signal.SIGKILL, reason: str | None = None) -> None:
        """Have a container's process end by a signal, told with another reason than the usual one (`OOMKilled`)."""
        with self.objects.changed:
            container = self._containers[pod]
            container.reason = reason
            _signal(container, number)

    def let_time_pass(self, pod: str, seconds: float) -> None:
        """Have a Pod have run for so much longer."""
        with self.objects.changed:
            self._containers[pod].since -= seconds

    def evict(self, pod: str, message: str) -> None:
        """Have a node end a Pod, as it is short of something."""
        with self.objects.changed:
            container = self._containers.pop(pod)
            _signal(container, signal.SIGKILL)
            container.process.wait()

            def fail(each: Object) -> None:
                _set_condition(each, "DisruptionTarget", "True", "TerminationByKubelet", message)
                each["status"] |= {"phase": "Failed", "reason": "Evicted", "message": message}
                _set_container(each, terminated={"exitCode": 137, "reason": "Error", "finishedAt": now()})

            self.objects.change("Pod", pod, fail)

    def lose(self, node: Node) -> None:
        """Have the cluster hear no more of a node, and give up its Pods. What runs there runs on."""
        with self.objects.changed:
            node.is_alive = False
            for pod in self.pods:
                if pod["spec"].get("nodeName") != node.name:
                    continue
                container = self._containers.pop(pod["metadata"]["name"], None)
                if container is not None:
                    self._orphans.append(container)

                def taint(each: Object) -> None:
                    _set_condition(each, "Ready", "False", "NodeNotReady", "")
                    message = "Taint manager: deleting due to NoExecute taint"
                    _set_condition(each, "DisruptionTarget", "True", "DeletionByTaintManager", message)

                self.objects.change("Pod", pod["metadata"]["name"], taint)
                self.delete_pod(pod["metadata"]["name"])

    def start_again(self, job: str) -> None:
        """Have the job controller make a second Pod, which it does not rule out."""
        with self.objects.changed:
            found = self.objects.get("Job", job)
            assert found is not None
            self._create_pod(found)

    def orphans(self) -> list[subprocess.Popen[bytes]]:
        """What still runs on nodes that are lost."""
        return [each.process for each in self._orphans if each.process.poll() is None]

    # -- deletion ------------------------------------------------------------------------------------------------------

    def delete_job(self, name: str, propagation: str) -> None:
        """Delete a Job: with its Pods (`Background`, `Foreground`), or without them (`Orphan`)."""
        with self.objects.changed:
            job = self.objects.get("Job", name)
            assert job is not None
            for pod in self._pods_of(job):
                if propagation == "Orphan":
                    self.objects.change("Pod", pod["metadata"]["name"], lambda each: _disown(each))
                else:
                    self.delete_pod(pod["metadata"]["name"])
            if propagation == "Foreground" and self._pods_of(job):
                self.objects.change("Job", name, lambda each: each["metadata"].setdefault("deletionTimestamp", now()))
            else:
                self.objects.remove("Job", name)

    def delete_pod(self, name: str, grace_s: float | None = None) -> None:
        """Delete a Pod: at once when nothing of it runs, else when it has ended."""
        with self.objects.changed:
            pod = self.objects.get("Pod", name)
            if pod is None:
                return
            container = self._containers.get(name)
            if grace_s == 0 or ("nodeName" not in pod["spec"]) or (container is None and self._is_over_with(pod)):
                if container is not None:
                    _signal(container, signal.SIGKILL)
                self.objects.remove("Pod", name)
                return
            grace = pod["spec"].get("terminationGracePeriodSeconds", GRACE_S) if grace_s is None else grace_s

            known = pod["metadata"].get("deletionGracePeriodSeconds")
            if known is not None and known <= grace:  # it can only become shorter
                return

            def mark(each: Object) -> None:
                each["metadata"] |= {"deletionTimestamp": _later(grace), "deletionGracePeriodSeconds": int(grace)}

            self.objects.change("Pod", name, mark)
            if container is not None:
                container.kill_at = time.monotonic() + grace
                _signal(container, signal.SIGTERM)

    def _is_over_with(self, pod: Object) -> bool:
        node = self._node(pod["spec"]["nodeName"])
        return pod["status"].get("phase") in ("Succeeded", "Failed") or (node.is_alive and not _has_run(pod))

    # -- what goes on all the time -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._is_over.is_set():
            with self.objects.changed:
                for job in self.jobs:
                    self._see_to_job(job)
                for pod in self.pods:
                    self._see_to_pod(pod)
                self.objects.changed.wait(0.02)

    def _pods_of(self, job: Object) -> list[Object]:
        uid = job["metadata"]["uid"]
        return [
            each
            for each in self.pods
            if any(owner["uid"] == uid for owner in each["metadata"].get("ownerReferences") or [])
        ]

    def _see_to_job(self, job: Object) -> None:
        name, uid, spec = job["metadata"]["name"], job["metadata"]["uid"], job["spec"]
        pods = self._pods_of(job)
        if "deletionTimestamp" in job["metadata"]:
            if not pods:
                self.objects.remove("Job", name)
        elif _is_finished(job):
            ttl = spec.get("ttlSecondsAfterFinished")
            if ttl is not None and time.monotonic() > self._finished.setdefault(uid, time.monotonic()) + ttl:
                self.delete_job(name, "Background")
        elif uid not in self._since:
            self._since[uid] = time.monotonic()
            self.objects.change("Job", name, lambda each: each.update(status={"startTime": now()}))
        elif time.monotonic() - self._since[uid] > spec.get("activeDeadlineSeconds", float("inf")):
            for pod in pods:
                self.delete_pod(pod["metadata"]["name"])
            self._fail(job, "DeadlineExceeded", "Job was active longer than specified deadline")
        else:
            self._count_pods(job, pods)

    def _count_pods(self, job: Object, pods: list[Object]) -> None:
        name = job["metadata"]["name"]
        succeeded = [each for each in pods if each["status"].get("phase") == "Succeeded"]
        failed = [each for each in pods if each["status"].get("phase") == "Failed"]
        active = [each for each in pods if each not in succeeded and each not in failed]
        if succeeded:

            def complete(each: Object) -> None:
                each["status"] |= {"succeeded": 1, "active": 0, "completionTime": now()}
                for kind in ("SuccessCriteriaMet", "Complete"):
                    _set_condition(
                        each, kind, "True", "CompletionsReached", "Reached expected number of succeeded pods"
                    )

            self.objects.change("Job", name, complete)
        elif failed:
            disrupted = [each for each in failed if _condition(each, "DisruptionTarget") is not None]
            if disrupted and "podFailurePolicy" in job["spec"]:
                pod = disrupted[0]["metadata"]["name"]
                message = f"Pod {pod} has condition DisruptionTarget matching FailJob rule at index 0"
                self._fail(job, "PodFailurePolicy", message)
            else:
                self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
        elif not active and self.starts_pods:
            if job["metadata"]["uid"] in self._with_pods:  # it was deleted, which counts as a failure
                self._fail(job, "BackoffLimitExceeded", "Job has reached the specified backoff limit")
            else:
                self._create_pod(job)
        else:
            self.objects.change("Job", name, lambda each: each["status"].update(active=len(active)))

    def _fail(self, job: Object, reason: str, message: str) -> None:
        def fail(each: Object) -> None:
            each["status"] |= {"failed": 1, "active": 0}
            for kind in ("FailureTarget", "Failed"):
                _set_condition(each, kind, "True", reason, message)

        self.objects.change("Job", job["metadata"]["name"], fail)

    def _create_pod(self, job: Object) -> None:
        name, template = job["metadata"]["name"], job["spec"]["template"]
        labels = {
            **(template.get("metadata", {}).get("labels") or {}),
            "batch.kubernetes.io/job-name": name,
            "job-name": name,
            "batch.kubernetes.io/controller-uid": job["metadata"]["uid"],
            "controller-uid": job["metadata"]["uid"],
        }
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": name,
            "uid": job["metadata"]["uid"],
            "controller": True,
            "blockOwnerDeletion": True,
        }
        self._with_pods.add(job["metadata"]["uid"])
        self.objects.change("Job", name, lambda each: each["status"].update(active=1))
        self.objects.add(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {
                    "name": f"{name}-{os.urandom(3).hex()[:5]}",
                    "namespace": job["metadata"]["namespace"],
                    "labels": labels,
                    "annotations": template.get("metadata", {}).get("annotations") or {},
                    "ownerReferences": [owner],
                },
                "spec": dict(template["spec"]),
                "status": {"phase": "Pending"},
            }
        )

    def _see_to_pod(self, pod: Object) -> None:
        name = pod["metadata"]["name"]
        if "nodeName" not in pod["spec"]:
            self._schedule(pod)
        elif not self._node(pod["spec"]["nodeName"]).is_alive:
            pass
        elif name in self._containers:
            self._look_at(name)
        elif "deletionTimestamp" in pod["metadata"]:
            self.objects.remove("Pod", name)
        elif pod["status"]["phase"] == "Pending":
            self._start(pod)

    # -- the scheduler -------------------------------------------------------------------------------------------------

    def _node(self, name: str) -> Node:
        return next(each for each in self.nodes if each.name == name)

    def _schedule(self, pod: Object) -> None:
        name, wishes = pod["metadata"]["name"], _requests(pod)
        reasons: dict[str, int] = {}
        for node in self.nodes:
            reason = self._obstacle(node, pod, wishes)
            if reason is None:

                def bind(each: Object, node: Node = node) -> None:
                    each["spec"]["nodeName"] = node.name
                    _set_condition(each, "PodScheduled", "True")
                    _set_container(each, waiting={"reason": "ContainerCreating"})

                self.objects.change("Pod", name, bind)
                return
            reasons[reason] = reasons.get(reason, 0) + 1
        told = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
        message = (
            f"0/{len(self.nodes)} nodes are available: {told}. preemption: 0/{len(self.nodes)} nodes are available."
        )
        self.objects.change(
            "Pod", name, lambda each: _set_condition(each, "PodScheduled", "False", "Unschedulable", message)
        )

    def _obstacle(self, node: Node, pod: Object, wishes: dict[str, float]) -> str | None:
        if not node.is_alive:
            return "node(s) had untolerated taint {node.kubernetes.io/unreachable: }"
        selector = pod["spec"].get("nodeSelector") or {}
        if any(node.labels.get(key) != value for key, value in selector.items()):
            return "node(s) didn't match Pod's node affinity/selector"
        taken = [
            _requests(each)
            for each in self.pods
            if each["spec"].get("nodeName") == node.name and each["status"]["phase"] in ("Pending", "Running")
        ]
        for resource, wish in wishes.items():
            if resource == "ephemeral-storage":
                continue
            if wish > node.resources.get(resource, 0) - sum(each.get(resource, 0) for each in taken):
                return f"Insufficient {resource}"
        return None

    # -- a node --------------------------------------------------------------------------------------------------------

    def _start(self, pod: Object) -> None:
        name, spec = pod["metadata"]["name"], pod["spec"]
        (container,) = spec["containers"]
        if container["image"] not in self.images:
            self._failures[name] = self._failures.get(name, 0) + 1
            image = container["image"]
            waiting = (
                {"reason": "ErrImagePull", "message": f"failed to resolve reference {image}: not found"}
                if self._failures[name] <= BACK_OFF_AFTER
                else {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}
            )
            self.objects.change("Pod", name, lambda each: _set_container(each, waiting=waiting))
            return
        fault = self._mount_fault(spec, container)
        if fault is not None:
            waiting = {"reason": "CreateContainerConfigError", "message": fault}
            self.objects.change("Pod", name, lambda each: _set_container(each, waiting=waiting))
            return
        environment = {
            # What an image brings along: the interpreter, and this distribution in it.
            "PATH": f"{Path(sys.executable).parent}:{os.defpath}",
            "HOSTNAME": name,
            POD: name,
            **{each["name"]: str(each.get("value", "")) for each in container.get("env") or []},
        }
        command = [*(container.get("command") or []), *(container.get("args") or [])]
        try:
            with (self._folder / f"{name}.log").open("wb") as output:
                process = subprocess.Popen(
                    [shutil.which(command[0], path=environment["PATH"]) or command[0], *command[1:]],
                    env=environment,
                    cwd=container.get("workingDir") or self._folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # a test's Ctrl-C does not reach into a container
                )
        except OSError as error:
            terminated = {"exitCode": 128, "reason": "StartError", "message": str(error), "finishedAt": now()}
            self.objects.change("Pod", name, lambda each: _end(each, terminated))
            return
        self._containers[name] = _Container(process, name)

        def run(each: Object) -> None:
            each["status"] |= {"phase": "Running", "startTime": now()}
            _set_condition(each, "Ready", "True")
            _set_container(each, running={"startedAt": now()})

        self.objects.change("Pod", name, run)

    def _mount_fault(self, spec: Object, container: Object) -> str | None:
        """Why a process would not find what a container would, None when it does."""
        volumes = {each["name"]: each for each in spec.get("volumes") or []}
        for mount in container.get("volumeMounts") or []:
            volume = volumes[mount["name"]]
            if "persistentVolumeClaim" not in volume:
                continue
            claim = volume["persistentVolumeClaim"]["claimName"]
            if claim not in self._claims:
                return f'persistentvolumeclaim "{claim}" not found'
            found = self._claims[claim] / mount.get("subPath", "")
            if found.resolve() != Path(mount["mountPath"]).resolve():
                return f"{found} is not at {mount['mountPath']}"
            if not found.exists():
                return f"there is no {found}"
        return None

    def _look_at(self, name: str) -> None:
        container = self._containers[name]
        pod = self.objects.get("Pod", name)
        assert pod is not None
        now_s = time.monotonic()
        if container.kill_at is None and now_s > container.since + pod["spec"].get("activeDeadlineSeconds", math.inf):
            container.overdue = True
            container.kill_at = now_s + pod["spec"].get("terminationGracePeriodSeconds", GRACE_S)
            _signal(container, signal.SIGTERM)
        if container.kill_at is not None and now_s > container.kill_at:
            _signal(container, signal.SIGKILL)
        status = container.process.poll()
        if status is None:
            return
        # The container's other processes end with its first.
        _signal(container, signal.SIGKILL)
        del self._containers[name]
        code = 128 - status if status < 0 else status
        reason = container.reason or ("Completed" if code == 0 else "Error")

        def end(each: Object) -> None:
            terminated = {"exitCode": code, "reason": reason, "finishedAt": now()}
            if code and each["spec"]["containers"][0].get("terminationMessagePolicy") == "FallbackToLogsOnError":
                terminated["message"] = self.output_of(name)[-2048:]
            _end(each, terminated)
            if container.overdue:
                message = "Pod was active on the node longer than the specified deadline"
                each["status"] |= {"phase": "Failed", "reason": "DeadlineExceeded", "message": message}

        self.objects.change("Pod", name, end)


def _signal(container: _Container, number: int) -> None:
    """Signal a container's first process; with the signal that kills, all of them."""
    with suppress(ProcessLookupError):
        os.kill(container.process.pid, number)
    if number == signal.SIGKILL:
        for pid in _processes_of(container.pod):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _processes_of(pod: str) -> list[int]:
    mark, found = f"{POD}={pod}".encode(), []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal():
            with suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found


def _later(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds))


def _requests(pod: Object) -> dict[str, float]:
    resources = pod["spec"]["containers"][0].get("resources") or {}
    return {
        name: amount(each) for name, each in {**resources.get("limits", {}), **resources.get("requests", {})}.items()
    }


def _has_run(pod: Object) -> bool:
    return bool(pod["status"].get("phase") != "Pending")


def _is_finished(job: Object) -> bool:
    return any(_condition(job, kind) is not None for kind in ("Complete", "Failed"))


def _disown(each: Object) -> None:
    each["metadata"]["ownerReferences"] = []


def _condition(each: Object, kind: str) -> Object | None:
    return next((it for it in each.get("status", {}).get("conditions") or [] if it["type"] == kind), None)


def _set_condition(each: Object, kind: str, status: str, reason: str = "", message: str = "") -> None:
    conditions = each["status"].setdefault("conditions", [])
    current = _condition(each, kind)
    new = {"type": kind, "status": status, "reason": reason, "message": message}
    if current is None:
        conditions.append({**new, "lastTransitionTime": now()})
    else:
        current |= new


def _set_container(each: Object, **state: Object) -> None:
    container = each["spec"]["containers"][0]
    each["status"]["containerStatuses"] = [
        {
            "name": container["name"],
            "image": container["image"],
            "imageID": "",
            "ready": "running" in state,
            "restartCount": 0,
            "state": state,
        }
    ]


def _end(each: Object, terminated: Object) -> None:
    each["status"]["phase"] = "Succeeded" if terminated["exitCode"] == 0 else "Failed"
    _set_condition(each, "Ready", "False", "PodCompleted")
    _set_container(each, terminated=terminated)
