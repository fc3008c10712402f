"""The Job that runs one simulation server: a site's template, with what is this simulation's filled in."""

from __future__ import annotations

import copy
import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from nrp_common.errors import SettingsError
from nrp_common.messages import Wishes
from nrp_simserver import processes
from nrp_simserver.placement.placement import ServerOrder
from nrp_simserver.resources.limits import Limit, Limited
from nrp_simserver.simulation_folder import SimulationFolder

Manifest = dict[str, Any]
"""A Kubernetes object, as its API has it in JSON."""

CONTAINER: Final = "simulation"
VOLUME: Final = "simulations"
"""What a template has to call the container that runs the server, and the volume that launchers share with it."""

WRITING_TO: Final = ("/bin/sh", "-c", 'exec "$@" >>"$0" 2>&1')
"""Runs a program that writes its output to the end of a file, which is named first."""

OWN_MEMORY_MB: Final = 64
"""What the process needs that runs the server, and does not count against the simulation's own limit."""

LAUNCHER: Final = "nrp-backend/launcher"
INCARNATION: Final = "nrp-backend/incarnation"
SIMULATION: Final = "nrp-backend/simulation"
OWNER: Final = "nrp-backend/owner"
EXPERIMENT: Final = "nrp-backend/experiment"
ACCOUNT: Final = "nrp-backend/account"
"""Labels by which a Job is found and told apart; annotations, the last three, for people."""


class JobTemplate:
    """A site's template of the Jobs.

    Args:
        manifest: a Job of one container `simulation`, with a volume `simulations`.
        volume_path: where the launcher has the volume.
        launcher: the launcher's name.
        node_selectors: the labels of the nodes that have what a launch asks for, by its own labels.
        gpu_resource: what GPUs are called, such as `nvidia.com/gpu`.
        stop_grace_s: how long a server may take to end in order.

    Attributes:
        has_image: whether the template says which image the container is of.

    Raises:
        SettingsError: it is no such template; says what is missing.
    """

    def __init__(
        self,
        manifest: Manifest,
        *,
        volume_path: Path,
        launcher: str,
        node_selectors: Mapping[str, Mapping[str, str]],
        gpu_resource: str,
        stop_grace_s: float,
    ) -> None:
        self._manifest = copy.deepcopy(manifest)
        self._volume_path = volume_path
        self._launcher = launcher
        self._node_selectors = node_selectors
        self._gpu_resource = gpu_resource
        self._stop_grace_s = stop_grace_s
        self.has_image = bool(container_in(self._manifest).get("image"))

    @property
    def selector(self) -> str:
        """Selects what this launcher has made."""
        return f"{LAUNCHER}={label_value(self._launcher)}"

    def job_for(self, order: ServerOrder, order_file: Path, heartbeat: Path) -> Manifest:
        """The Job of a simulation server; the same for the same order.

        Args:
            order: the server.
            order_file: what `nrp_simserver.placement.job` is to do, in the simulation's folder.
            heartbeat: the file that shows that the launcher lives.
        """
        setup, launch = order.setup, order.launch
        job = copy.deepcopy(self._manifest)
        spec, pod, container = job["spec"], job["spec"]["template"]["spec"], container_in(job)
        labels = {
            LAUNCHER: label_value(self._launcher),
            INCARNATION: setup.incarnation,
            SIMULATION: str(setup.simulation_id),
        }
        annotations = {OWNER: launch.owner, EXPERIMENT: launch.experiment_id, ACCOUNT: launch.wishes.account}
        job["metadata"]["name"] = job_name(setup.simulation_id, setup.incarnation)
        for metadata in (job["metadata"], spec["template"].setdefault("metadata", {})):
            metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
            metadata["annotations"] = {**(metadata.get("annotations") or {}), **annotations}
        # A simulation that has begun cannot be begun again by somebody else.
        spec |= {"backoffLimit": 0, "completions": 1, "parallelism": 1}
        spec["podFailurePolicy"] = {
            "rules": [{"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
        }
        pod["restartPolicy"] = "Never"
        pod["terminationGracePeriodSeconds"] = math.ceil(self._stop_grace_s) + 1
        if launch.wishes.time_limit is not None:  # of the Pod, as the Job's own would count while it waits for a node
            asked = math.ceil(launch.wishes.time_limit)
            pod["activeDeadlineSeconds"] = min(asked, pod.get("activeDeadlineSeconds", asked))
        for label in launch.wishes.labels:
            pod["nodeSelector"] = {**(pod.get("nodeSelector") or {}), **self._node_selectors.get(label, {})}
        log = SimulationFolder(setup.folder, setup.simulation_id).log
        program = ["python", "-P", "-m", "nrp_simserver.placement.job", str(order_file), job["metadata"]["name"]]
        # What the template says comes before it, as `nice` or `tini` would.
        container["command"] = [*(container.get("command") or []), *WRITING_TO, str(log), *program]
        container["env"] = [*(container.get("env") or []), {"name": processes.MARK, "value": processes.UNMARKED}]
        container["volumeMounts"] = [  # of all that is on the volume no more than its own
            *(container.get("volumeMounts") or []),
            self._mount(setup.folder),
            {**self._mount(heartbeat), "readOnly": True},
        ]
        container["resources"] = self._resources(container.get("resources") or {}, launch.wishes, order.limits)
        return job

    def _mount(self, path: Path) -> Manifest:
        return {"name": VOLUME, "mountPath": str(path), "subPath": path.relative_to(self._volume_path).as_posix()}

    def _resources(self, usual: Manifest, wishes: Wishes, limits: Mapping[Limited, Limit]) -> Manifest:
        requests, most = dict(usual.get("requests") or {}), dict(usual.get("limits") or {})
        if wishes.cores:
            requests["cpu"] = f"{math.ceil(wishes.cores * 1000)}m"
            most.pop("cpu", None)  # meant for those that ask for nothing
        if wishes.memory_mb:
            requests["memory"] = f"{wishes.memory_mb}Mi"
            most.pop("memory", None)
        if Limited.MEMORY in limits:
            most["memory"] = f"{math.ceil(limits[Limited.MEMORY].most) + OWN_MEMORY_MB}Mi"
            if not wishes.memory_mb or wishes.memory_mb > limits[Limited.MEMORY].most:
                requests["memory"] = most["memory"]
        if wishes.gpus:
            requests[self._gpu_resource] = most[self._gpu_resource] = str(wishes.gpus)
        return {"requests": requests, "limits": most}


def read_template(path: Path) -> Manifest:
    """The template in a YAML file.

    Raises:
        SettingsError: there is none; says why.
    """
    try:
        manifest = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"NRP_KUBERNETES_JOB={path} cannot be read: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("kind") != "Job" or manifest.get("apiVersion") != "batch/v1":
        raise SettingsError(f"NRP_KUBERNETES_JOB={path} is no Job of batch/v1")
    manifest.setdefault("metadata", {})
    return manifest


def container_in(manifest: Manifest) -> Manifest:
    """The container of a Job that runs the server.

    Raises:
        SettingsError: there is none.
    """
    try:
        pod = manifest["spec"]["template"]["spec"]
        containers = {each["name"]: each for each in pod["containers"]}
        volumes = {each["name"] for each in pod.get("volumes") or []}
    except (KeyError, TypeError) as error:
        raise SettingsError(
            f"NRP_KUBERNETES_JOB: the template of its Pod is incomplete ({error} is missing)"
        ) from error
    if CONTAINER not in containers:
        raise SettingsError(f"NRP_KUBERNETES_JOB: its Pod has no container '{CONTAINER}'")
    if VOLUME not in volumes:
        raise SettingsError(f"NRP_KUBERNETES_JOB: its Pod has no volume '{VOLUME}'")
    return containers[CONTAINER]  # type: ignore[no-any-return]


def job_name(simulation_id: int, incarnation: str) -> str:
    """Of the Job of a simulation server: whoever makes it again is told that it is there."""
    return f"nrp-{simulation_id}-{incarnation}"


def label_value(name: str) -> str:
    """A name as the value of a label, which allows fewer characters than launchers' names."""
    if re.fullmatch(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?", name):
        return name
    return hashlib.sha256(name.encode()).hexdigest()[:32]
