"""The cluster as its API shows it: the Jobs of this launcher and their Pods, followed; Jobs made and deleted.

The API may be away, slow, or refuse what comes too often. What was seen then still holds, and all is tried again.
"""

from __future__ import annotations

import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import urllib3
from kubernetes import client, config, watch
from kubernetes.client.exceptions import ApiException

from nrp_common.errors import NRPError, SettingsError
from nrp_simserver.placement.batch import NotNow
from nrp_simserver.placement.kubernetes.job_template import INCARNATION, Manifest

log = logging.getLogger(__name__)

REQUEST_TIMEOUT: Final = (3.05, 10.0)
"""Seconds to connect to the API, and until it answers."""

WATCH_S: Final = 60
"""How long the API is asked to tell of changes in one go."""

WATCH_TIMEOUT: Final = (3.05, WATCH_S + 15.0)
"""The same of a watch, whose connection may have died without a word."""

RETRY_DELAYS_S: Final = (0.1, 0.5, 1.0, 2.0, 5.0)
"""After how many failures in a row the API is asked again when; up to half more, so that not all come at once."""

LONGEST_PAUSE_S: Final = 30.0
"""For which the API is left alone, however long it asks for that."""

LOST_AFTER_S: Final = 30.0
"""A Pod that is still there so long after it had to be gone is on a node that the cluster does not hear of."""

GONE: Final = 410

IN_A_POD: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a Pod finds the namespace that it is in."""


class ClusterUnavailable(NotNow):
    """The Kubernetes API cannot be reached, or has no time."""


class QuotaExceeded(NotNow):
    """The namespace may have no more for now."""


class JobRefused(NRPError):
    """The Kubernetes API does not take the Job."""


@dataclass
class Sight:
    """What is seen of one simulation server.

    Attributes:
        job: its Job, None when there is none.
        pods: the Job's Pods.
        last_pod: what was last seen of a Pod that is not there any more.
        lost: the names of those on nodes that the cluster has lost.
    """

    job: Manifest | None = None
    pods: list[Manifest] = field(default_factory=list)
    last_pod: Manifest | None = None
    lost: list[str] = field(default_factory=list)


def incarnation_of(each: Manifest) -> str | None:
    """Of the server that a Job or Pod is for, None when it is for none."""
    return (each["metadata"].get("labels") or {}).get(INCARNATION)


class _Mirror:
    """What was last heard of Jobs and Pods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[str, Manifest] = {}  # by incarnation, as all that follows
        self._pods: dict[str, dict[str, Manifest]] = {}  # and by name
        self._last_pods: dict[str, Manifest] = {}
        self._made_at: dict[str, float] = {}  # when Jobs were made here that no list has shown yet
        self._doomed_since: dict[str, float] = {}  # when Pods were first seen to be on their way out, by name

    def add_made(self, job: Manifest) -> None:
        """A Job was made just now."""
        with self._lock:
            incarnation = incarnation_of(job)
            assert incarnation is not None
            self._jobs.setdefault(incarnation, job)
            self._made_at[incarnation] = time.monotonic()

    def replace(self, kind: str, found: Iterable[Manifest], asked_at: float) -> None:
        """There are these and no others; but for Jobs made after it was asked for them."""
        with self._lock:
            if kind == "Job":
                self._jobs = {
                    incarnation: job
                    for incarnation, job in self._jobs.items()
                    if self._made_at.get(incarnation, -math.inf) >= asked_at
                }
            else:
                for pods in self._pods.values():
                    for pod in pods.values():
                        self._take_leave_of(pod)
                self._pods = {}
            for each in found:
                self._add(kind, each)

    def change(self, kind: str, change: str, each: Manifest) -> None:
        """One is there, or not any more."""
        with self._lock:
            if change != "DELETED":
                self._add(kind, each)
            elif (incarnation := incarnation_of(each)) is None:
                pass
            elif kind == "Job":
                self._jobs.pop(incarnation, None)
            else:
                self._pods.get(incarnation, {}).pop(each["metadata"]["name"], None)
                self._doomed_since.pop(each["metadata"]["name"], None)
                self._take_leave_of(each)

    def _add(self, kind: str, each: Manifest) -> None:
        incarnation, name = incarnation_of(each), each["metadata"]["name"]
        if incarnation is None:
            return
        if kind == "Job":
            self._jobs[incarnation] = each
            return
        self._pods.setdefault(incarnation, {})[name] = each
        if "deletionTimestamp" in each["metadata"]:
            self._doomed_since.setdefault(name, time.monotonic())

    def _take_leave_of(self, pod: Manifest) -> None:
        if (incarnation := incarnation_of(pod)) is not None:
            self._last_pods[incarnation] = pod

    def sight_of(self, incarnation: str) -> Sight:
        with self._lock:
            pods = list(self._pods.get(incarnation, {}).values())
            lost = [each["metadata"]["name"] for each in pods if self._is_lost(each)]
            return Sight(self._jobs.get(incarnation), pods, self._last_pods.get(incarnation), lost)

    def _is_lost(self, pod: Manifest) -> bool:
        # By this machine's clock, from when it was seen: the cluster's may be another.
        since = self._doomed_since.get(pod["metadata"]["name"])
        grace = pod["metadata"].get("deletionGracePeriodSeconds") or 0
        return since is not None and time.monotonic() > since + grace + LOST_AFTER_S

    def jobs(self) -> dict[str, Manifest]:
        """All, by incarnation."""
        with self._lock:
            return dict(self._jobs)

    def forget(self, incarnation: str) -> None:
        with self._lock:
            self._last_pods.pop(incarnation, None)
            self._made_at.pop(incarnation, None)
            if not self._pods.get(incarnation):
                self._pods.pop(incarnation, None)


class Cluster:
    """A namespace of a cluster, as far as one launcher is concerned.

    Args:
        api: the connection to the cluster.
        namespace: of the Jobs.
        selector: selects the launcher's Jobs and Pods.
        changed: called in any thread when something was seen; must not take long.
    """

    def __init__(self, api: client.ApiClient, namespace: str, selector: str, changed: Callable[[], None]) -> None:
        self._api = api
        self._batch = client.BatchV1Api(api)
        self._core = client.CoreV1Api(api)
        self._namespace = namespace
        self._selector = selector
        self._changed = changed
        self._mirror = _Mirror()
        self._synced = {"Job": threading.Event(), "Pod": threading.Event()}
        self._is_over = threading.Event()
        self._untold: set[str] = set()  # the kinds that cannot be followed now

    def start(self) -> None:
        """Follow what happens, in the background."""
        for kind in self._synced:
            threading.Thread(target=self._follow, args=(kind,), name=f"{kind}s", daemon=True).start()

    def close(self) -> None:
        """Follow no more. What the API is asked at that moment is left to itself."""
        self._is_over.set()

    # -- what is seen --------------------------------------------------------------------------------------------------

    @property
    def has_been_seen(self) -> bool:
        """Whether all Jobs and Pods that there are have been told of."""
        return all(each.is_set() for each in self._synced.values())

    def sight_of(self, incarnation: str) -> Sight:
        """What was last seen of a simulation server."""
        return self._mirror.sight_of(incarnation)

    def jobs(self) -> dict[str, Manifest]:
        """All Jobs of the launcher, by incarnation."""
        return self._mirror.jobs()

    def forget(self, incarnation: str) -> None:
        """A simulation server is of no interest any more."""
        self._mirror.forget(incarnation)

    def look_at(self, name: str, incarnation: str) -> Sight:
        """What there is of a simulation server now, its last Pod as it was last seen.

        Raises:
            ClusterUnavailable: that cannot be told now.
        """
        sight = self._mirror.sight_of(incarnation)
        selector = f"{INCARNATION}={incarnation}"
        try:
            pods = self._ask(self._core.list_namespaced_pod, label_selector=selector)["items"]
            job = self._job(name)
        except ApiException as error:
            raise unavailable(error) from error
        return Sight(job, pods, sight.last_pod, sight.lost)

    def own_image(self, pod: str) -> str:
        """The image of the first container of a Pod.

        Raises:
            ClusterUnavailable: that cannot be told now.
            JobRefused: there is no such Pod.
        """
        try:
            found = self._ask(self._core.read_namespaced_pod, pod)
        except ApiException as error:
            if error.status == 404:
                raise JobRefused(
                    f"NRP_KUBERNETES_JOB names no image, and there is no Pod '{pod}' to have it from"
                ) from error
            raise unavailable(error) from error
        return str(found["spec"]["containers"][0]["image"])

    def _follow(self, kind: str) -> None:
        failures = 0
        while not self._is_over.is_set():
            pause_s = 0.0
            try:
                version = self._list(kind)
                self._note_told(kind)
                while not self._is_over.is_set():
                    version = self._watch(kind, version)
                    failures = 0
            except ApiException as error:
                if error.status == GONE:
                    log.debug("Changes of %ss were missed, they are listed anew", kind)
                    failures = 0
                    continue
                pause_s = self._note_obstacle(kind, unavailable(error))
            except ClusterUnavailable as error:
                pause_s = self._note_obstacle(kind, error)
            self._is_over.wait(max(pause_s, delay_after(failures)))
            failures += 1

    def _list(self, kind: str) -> str:
        asked_at = time.monotonic()
        found = self._ask(self._lister(kind), label_selector=self._selector)
        items = [{"kind": kind, **each} for each in found["items"]]
        self._mirror.replace(kind, items, asked_at)
        self._synced[kind].set()
        self._changed()
        return str(found["metadata"]["resourceVersion"])

    def _watch(self, kind: str, version: str) -> str:
        """Take note of changes for a while. Returns the version of the last one."""
        follower = watch.Watch()
        try:
            for event in follower.stream(
                self._lister(kind),
                self._namespace,
                label_selector=self._selector,
                resource_version=version,
                allow_watch_bookmarks=True,
                timeout_seconds=WATCH_S,
                _request_timeout=WATCH_TIMEOUT,
            ):
                if self._is_over.is_set():
                    break
                each = event["raw_object"]
                version = each["metadata"]["resourceVersion"]
                if event["type"] in ("ADDED", "MODIFIED", "DELETED"):
                    self._mirror.change(kind, event["type"], each)
                    self._changed()
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ClusterUnavailable(f"The Kubernetes API cannot be reached: {error}") from error
        finally:
            follower.stop()
        return version

    def _lister(self, kind: str) -> Callable[..., Any]:
        return self._batch.list_namespaced_job if kind == "Job" else self._core.list_namespaced_pod  # type: ignore[no-any-return]

    def _note_obstacle(self, kind: str, error: ClusterUnavailable) -> float:
        """Say so once when it cannot be followed what happens. Returns for how many seconds not to ask again."""
        if kind not in self._untold and not self._is_over.is_set():
            self._untold.add(kind)
            log.warning("The Kubernetes API tells of no %ss, it is asked again: %s", kind, error)
        return error.retry_after_s

    def _note_told(self, kind: str) -> None:
        if kind in self._untold:
            self._untold.discard(kind)
            log.info("The Kubernetes API tells of %ss again", kind)

    # -- what is done --------------------------------------------------------------------------------------------------

    def create(self, job: Manifest) -> None:
        """Make a Job. One that is there already is as good.

        Raises:
            ClusterUnavailable: it is to be tried again; it may be there all the same.
            QuotaExceeded: it is to be tried again when there is room.
            JobRefused: it will never be made; says why.
        """
        name = job["metadata"]["name"]
        try:
            made = self._ask(self._batch.create_namespaced_job, job)
        except ApiException as error:
            message = describe(error)
            if error.status == 409:
                made = self._the_same(job)
            elif error.status == 403 and "exceeded quota" in message:
                raise QuotaExceeded(message) from error
            elif error.status in (400, 403, 404, 405, 413, 415, 422):
                raise JobRefused(f"Kubernetes refuses to make a Job for the simulation: {message}") from error
            else:
                raise unavailable(error) from error
        else:
            log.debug("Made the Job %s", name)
        self._mirror.add_made({"kind": "Job", **made})
        self._changed()

    def _the_same(self, job: Manifest) -> Manifest:
        """The Job that is there already: made by an attempt whose answer was lost, or by an earlier launcher."""
        name = job["metadata"]["name"]
        try:
            found = self._job(name)
        except ApiException as error:
            raise unavailable(error) from error
        if found is None or "deletionTimestamp" in found["metadata"]:
            raise ClusterUnavailable(f"The Job {name} is being deleted")
        if incarnation_of(found) != incarnation_of(job):
            raise JobRefused(f"There is another Job of the name {name}")
        return found

    def _job(self, name: str) -> Manifest | None:
        try:
            return self._ask(self._batch.read_namespaced_job, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise

    def delete(self, name: str, pods: Iterable[str] = (), *, grace_s: int | None = None) -> None:
        """Delete a Job, and its Pods with it; nothing happens when it is not there.

        Args:
            name: the Job's.
            pods: the names of Pods to which the grace applies.
            grace_s: how long they may take to end; as long as their Job says when None.

        Raises:
            ClusterUnavailable: it is to be tried again.
        """
        background = client.V1DeleteOptions(propagation_policy="Background")
        try:
            self._delete(self._batch.delete_namespaced_job, name, background)
            if grace_s is not None:
                for pod in pods:
                    self._delete(
                        self._core.delete_namespaced_pod, pod, client.V1DeleteOptions(grace_period_seconds=grace_s)
                    )
        except ApiException as error:
            raise unavailable(error) from error

    def _delete(self, call: Callable[..., Any], name: str, options: client.V1DeleteOptions) -> None:
        try:
            self._ask(call, name, body=options)
        except ApiException as error:
            if error.status != 404:
                raise

    def _ask(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Manifest:
        """What the API answers.

        Raises:
            ApiException: an error.
            ClusterUnavailable: there is no answer.
        """
        # The methods take what they are about first, and the namespace then; those without a name the other way round.
        by_name = arguments and isinstance(arguments[0], str)
        places = (arguments[0], self._namespace) if by_name else (self._namespace, *arguments)
        try:
            answer = call(*places, **options, _preload_content=False, _request_timeout=REQUEST_TIMEOUT)
            return json.loads(answer.data)  # type: ignore[no-any-return]
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise ClusterUnavailable(f"The Kubernetes API cannot be reached: {error}") from error


def unavailable(error: ApiException) -> ClusterUnavailable:
    """An error after which the API is to be asked again."""
    retry_after_s = 0.0
    with suppress(ValueError):
        retry_after_s = min(float((error.headers or {}).get("Retry-After") or 0.0), LONGEST_PAUSE_S)
    return ClusterUnavailable(describe(error), retry_after_s)


def describe(error: ApiException) -> str:
    """What the API says about an error."""
    message = ""
    with suppress(TypeError, ValueError, AttributeError):
        message = json.loads(error.body).get("message", "")
    return f"{message or error.reason} ({error.status})"


def delay_after(failures: int) -> float:
    """How many seconds to wait after so many failures in a row, from 0."""
    return RETRY_DELAYS_S[min(failures, len(RETRY_DELAYS_S) - 1)] * random.uniform(1.0, 1.5)  # noqa: S311  no secret


# -- how to get to it --------------------------------------------------------------------------------------------------


def connect(kubeconfig: Path | None, context: str, namespace: str) -> tuple[client.ApiClient, str]:
    """The cluster's API and the namespace to use: of the Pod that this runs in, else those of a kubeconfig.

    Args:
        kubeconfig: the file, None for the Pod's own access or what `kubectl` would take.
        context: in the file, "" for the current one.
        namespace: other than that of the Pod or the context.

    Raises:
        SettingsError: there is no access to any cluster.
    """
    configuration = client.Configuration()
    own = ""
    try:
        if kubeconfig is None and not context and IN_A_POD.exists():
            config.load_incluster_config(client_configuration=configuration)
            own = IN_A_POD.read_text().strip()
        else:
            file = None if kubeconfig is None else str(kubeconfig)
            config.load_kube_config(file, context or None, client_configuration=configuration, persist_config=False)
            contexts, current = config.list_kube_config_contexts(file)
            chosen = next((each for each in contexts if each["name"] == context), current)
            own = chosen["context"].get("namespace", "")
    except (config.ConfigException, OSError) as error:
        raise SettingsError(f"NRP_PLACEMENT=kubernetes finds no cluster: {error}") from error
    configuration.retries = False  # who asks does that
    return client.ApiClient(configuration), namespace or own or "default"
