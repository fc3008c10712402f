"""Simulation servers as Jobs of a Kubernetes cluster, one each.

What the cluster's API tells of Jobs and Pods is followed all the time; what a server says of its own end is in the
simulation's folder, where the process that runs it there (`nrp_simserver.placement.job`) noted it down. One thread
looks at both, so that whatever was missed while the API, the broker or this launcher was away is made up for. What is
asked of the API is asked from other threads, and again until it is done.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ValidationError

from nrp_common import tracing
from nrp_common.bus import Bus
from nrp_common.errors import SettingsError
from nrp_common.messages import ServerPresence
from nrp_simserver.placement.heartbeat import Heartbeat
from nrp_simserver.placement.job import Claim, JobOrder
from nrp_simserver.placement.kubernetes.cluster import (
    IN_A_POD,
    Cluster,
    ClusterUnavailable,
    JobRefused,
    QuotaExceeded,
    connect,
    delay_after,
)
from nrp_simserver.placement.kubernetes.job_template import JobTemplate, container_in, read_template
from nrp_simserver.placement.kubernetes.standing import Over, Runs, Waits, standing_of
from nrp_simserver.placement.placement import Listener, QueuePlace, ServerOrder
from nrp_simserver.resources.capacity import Room
from nrp_simserver.server_end import ServerEnd, describe_server_end, last_words
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder

log = logging.getLogger(__name__)

CAPACITY: Final = 100
"""How many simulations are with the cluster at once, waiting ones included, when nothing else is set."""

LOOK_S: Final = 1.0
"""Between two looks when nothing is told."""

ENDING_LOOK_S: Final = 0.05
"""Between two looks into the folder of a simulation whose server has left the bus, or was told to end."""

ENDING_S: Final = 5.0
"""For how long it is looked at so often."""

CALLS_AT_ONCE: Final = 4
"""Of the API, beside those that follow what happens."""

ORPHANED_S: Final = 30.0
"""The least time that Jobs run on without a launcher: its sign of life crosses a file system."""

KILL_GRACE_S: Final = 1
"""Of a Pod that is killed. With none at all the cluster forgets it before it has ended."""

FREED_WITHIN_S: Final = 15.0
"""How long the folder of a simulation that is over is left to its Pod, which may still be closing its files."""

CLOSED_WITHIN_S: Final = 5.0
"""How long the API has at the end to delete what is left."""

NOTE: Final = "kubernetes_job.json"

NOBODY: Final = tracing.Context()
"""On whose behalf a server of an earlier launcher runs, as far as is known."""


class JobNote(BaseModel):
    """What a launcher notes down of a Job in the simulation's folder, for the launcher that comes after it.

    Attributes:
        job: as it is to be made.
        is_made: whether it is known to be made.
    """

    job: dict[str, Any]
    is_made: bool = False

    @property
    def name(self) -> str:
        """Of the Job."""
        return str(self.job["metadata"]["name"])

    def write(self, folder: SimulationFolder) -> None:
        """Put this into the simulation's folder."""
        new = folder.path / f"{NOTE}.new"
        new.write_text(self.model_dump_json())
        new.replace(folder.path / NOTE)

    @classmethod
    def read(cls, folder: SimulationFolder) -> Self | None:
        """The note in a simulation's folder, None when it was not ordered."""
        try:
            return cls.model_validate_json((folder.path / NOTE).read_bytes())
        except (OSError, ValidationError):
            return None


class _Ending(IntEnum):
    """How urgently a server is to end."""

    NO = 0
    STOP = 1
    KILL = 2


@dataclass
class _Server:
    """A simulation server, from its order until nothing of it is left.

    Attributes:
        incarnation: the server's.
        folder: the simulation's.
        note: of its Job.
        context: on whose behalf it runs.
        obstacle: why the Job was not made so far.
        failures: how often in a row the API did not do what it was asked.
        retry_at: when it is asked again, in `time.monotonic()` seconds.
        is_busy: whether the API is being asked.
        was_tried: whether the Job may be there although it is not known to be.
        is_online: whether the server is on the bus.
        is_running: whether the listener was told that it runs.
        is_over: whether the listener was told how it ended.
        ending: how urgently it is to end.
        deleted: up to which urgency the cluster was told.
        hurry_until: for how long it is looked at often.
        read_at: when it was looked whether its folder says that it ended.
    """

    incarnation: str
    folder: SimulationFolder
    note: JobNote
    context: tracing.Context = NOBODY
    obstacle: str = ""
    failures: int = 0
    retry_at: float = -math.inf
    is_busy: bool = False
    was_tried: bool = False
    is_online: bool = False
    is_running: bool = False
    is_over: bool = False
    ending: _Ending = _Ending.NO
    deleted: _Ending = _Ending.NO
    hurry_until: float = -math.inf
    read_at: float = -math.inf


class KubernetesPlacement:
    """A `Placement` in a Kubernetes cluster.

    Args:
        settings: the launcher's.
        bus: the launcher's.
        listener: is told what becomes of servers.
        all_told: called once it is known which servers of earlier launchers there are.

    Raises:
        SettingsError: there is no cluster, or Jobs could not work with these settings.
    """

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, all_told: Callable[[], None]) -> None:
        self.room = Room(places=settings.capacity or CAPACITY, cores=None, memory_mb=None, gpus=None)
        self._settings = settings
        self._bus = bus
        self._listener = listener
        self._all_told: Callable[[], None] | None = all_told
        self._template = _template_of(settings)
        self._heartbeat = Heartbeat(settings.heartbeat_file)
        api, namespace = connect(settings.kubernetes_config, settings.kubernetes_context, settings.kubernetes_namespace)
        if not self._template.has_image and not IN_A_POD.exists():
            raise SettingsError("NRP_KUBERNETES_JOB names no image, and this launcher runs in no Pod to have its from")
        self._changed = threading.Condition(threading.RLock())  # guards the three below and all of each server
        self._servers: dict[str, _Server] = {}
        self._left_over: dict[str, _Server] = {}  # whose Jobs are of no use any more
        self._is_closing = False
        self._is_new = True  # something was told that was not looked at
        self._cluster = Cluster(api, namespace, self._template.selector, self._note_change)
        self._calls = ThreadPoolExecutor(CALLS_AT_ONCE, "kubernetes")
        self._thread = threading.Thread(target=self._work, name="kubernetes", daemon=True)
        log.info("Simulation servers are Jobs in the namespace '%s' of %s", namespace, api.configuration.host)

    # -- what the launcher asks ----------------------------------------------------------------------------------------

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:
        """Follow the cluster, and find the Jobs of earlier launchers."""
        self._heartbeat.beat()  # Jobs mount the file, which has to be there
        for incarnation, folder in leftovers.items():
            if (note := JobNote.read(folder)) is not None:
                self._follow(_Server(incarnation, folder, note, was_tried=True))
                self._listener.server_found(incarnation)
        self._cluster.start()
        self._thread.start()

    def reserve(self) -> str:
        """A new incarnation."""
        return uuid.uuid4().hex

    def dismiss(self, incarnation: str) -> None:
        """Nothing: nothing was made ready for it."""

    def place(self, order: ServerOrder) -> None:
        """Have a Job made. What comes of that the listener is told.

        Raises:
            JobRefused: it asks for what there is not in Kubernetes.
            OSError: the simulation's folder cannot be written to.
        """
        settings, setup, partition = self._settings, order.setup, order.launch.wishes.partition
        if partition:
            raise JobRefused(f"Kubernetes has no partitions, the launch asks for '{partition}'. Ask for labels instead")
        folder = SimulationFolder(setup.folder, setup.simulation_id)
        job_order = JobOrder(
            setup=setup,
            limits=dict(order.limits),
            stop_grace_s=settings.stop_grace_s,
            orphaned_s=max(settings.orphaned_s, ORPHANED_S),
            heartbeat=settings.heartbeat_file,
        )
        job = self._template.job_for(order, job_order.write(folder), settings.heartbeat_file)
        note = JobNote(job=job)
        note.write(folder)  # before it is made: the next launcher makes it, should this one not come to it
        self._follow(_Server(setup.incarnation, folder, note, order.launch.context))
        self._listener.server_waits(setup.incarnation, QueuePlace("Its Job is being made"))
        self._note_change()

    def stop(self, incarnation: str) -> None:
        """Have a server end in order, or never begin."""
        self._end(incarnation, _Ending.STOP)

    def kill(self, incarnation: str) -> None:
        """Have the cluster kill a server."""
        self._end(incarnation, _Ending.KILL)

    def end_processes(
        self, incarnation: str, folder: SimulationFolder, server: int | None, spawner: int | None
    ) -> None:
        """Nothing: what runs in a container ends with it."""

    def forget(self, incarnation: str) -> None:
        """Have the Job deleted, and wait until nothing of it uses the folder; not for a node that is lost."""
        with self._changed:
            server = self._servers.get(incarnation)
            if server is None:
                return
            server.is_over = True
            self._left_over[incarnation] = server
            self._note_change()
            freed = self._changed.wait_for(lambda: self._is_closing or self._is_free(server), FREED_WITHIN_S)
            if not freed:
                log.warning("The Pod of %s is still there, its folder is deleted all the same", server.note.name)
            del self._servers[incarnation]
        self._bus.unsubscribe(self._presence_of(incarnation))

    def _is_free(self, server: _Server) -> bool:
        if server.is_online or server.is_busy:
            return False
        if server.incarnation not in self._left_over:
            sight = self._cluster.sight_of(server.incarnation)
            return all(each["metadata"]["name"] in sight.lost for each in sight.pods)
        return False

    def server_pids(self) -> set[int]:
        """None: they are elsewhere."""
        return set()

    def close(self) -> None:
        """Delete all Jobs that are left."""
        with self._changed:
            for server in self._servers.values():
                self._left_over[server.incarnation] = server
            self._note_change()
            self._changed.wait_for(lambda: not self._left_over, CLOSED_WITHIN_S)
        self.leave()

    def leave(self) -> None:
        """Look no more; Jobs run on, and wait on."""
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        self._cluster.close()
        if self._thread.is_alive():
            self._thread.join()
        self._calls.shutdown(cancel_futures=True)

    def _follow(self, server: _Server) -> None:
        with self._changed:
            self._servers[server.incarnation] = server
        self._bus.subscribe(self._presence_of(server.incarnation), partial(self._hear, server))

    def _presence_of(self, incarnation: str) -> str:
        return self._settings.topics.server_presence(incarnation)

    def _end(self, incarnation: str, ending: _Ending) -> None:
        with self._changed:
            server = self._servers.get(incarnation)
            if server is None or server.is_over or ending <= server.ending:
                return
            server.ending, server.retry_at = ending, -math.inf
            server.hurry_until = time.monotonic() + ENDING_S
            if not server.is_running and self._keep_from_running(server):
                self._left_over[incarnation] = server
                self._tell_end(server, "The simulation was ended before its Job ran")
            self._note_change()

    @staticmethod
    def _keep_from_running(server: _Server) -> bool:
        """Take the claim on a simulation, so that no Job has it. Returns whether none had it before."""
        claim = Claim(run=uuid.uuid4().hex, job="", node=socket.gethostname())
        try:
            return claim.take_first(server.folder)
        except OSError as error:
            log.error("The claim on simulation %d cannot be taken: %s", server.folder.simulation_id, error)
            return False

    # -- what is told --------------------------------------------------------------------------------------------------

    def _note_change(self) -> None:
        with self._changed:
            self._is_new = True
            self._changed.notify_all()

    def _hear(self, server: _Server, _topic: str, payload: bytes) -> None:
        presence = ServerPresence.from_json(payload) if payload else None
        with self._changed:
            was_online, server.is_online = server.is_online, presence is not None and presence.online
            if server.is_online and not server.is_over:
                self._note_running(server)
            elif was_online and not server.is_online:
                server.hurry_until = time.monotonic() + ENDING_S
            self._note_change()

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._is_new or self._is_closing, self._patience())
                self._is_new = False
                if self._is_closing:
                    return
            try:
                self._heartbeat.beat()
                self._look()
            except Exception:
                log.exception("A look at the cluster failed")

    def _patience(self) -> float:
        now = time.monotonic()
        is_ending = any(now < each.hurry_until and not each.is_over for each in self._servers.values())
        return ENDING_LOOK_S if is_ending else LOOK_S

    def _look(self) -> None:
        is_seen, now = self._cluster.has_been_seen, time.monotonic()
        with self._changed:
            if is_seen:
                self._find_left_over()
            for server in list(self._servers.values()):
                if not server.is_over and (now < server.hurry_until or now >= server.read_at + LOOK_S):
                    server.read_at = now
                    self._read_end(server)
                if not server.is_over:
                    self._see_to(server, is_seen=is_seen)
            for server in list(self._left_over.values()):
                self._ask(server, self._delete_left_over)
            self._changed.notify_all()
        if is_seen and self._all_told is not None:
            all_told, self._all_told = self._all_told, None
            all_told()

    def _find_left_over(self) -> None:
        """Find the Jobs whose simulations are over, or never were."""
        for incarnation, job in self._cluster.jobs().items():
            if incarnation in self._servers or incarnation in self._left_over or self._listener.is_taken(incarnation):
                continue
            log.info("The Job %s is of no simulation, it is deleted", job["metadata"]["name"])
            self._left_over[incarnation] = _Server(incarnation, SimulationFolder(Path(), 0), JobNote(job=job))

    # -- what is seen of one server; `_changed` is held ----------------------------------------------------------------

    def _read_end(self, server: _Server) -> None:
        """Take note of how a server says that it ended, unless the cluster knows better."""
        end = ServerEnd.read(server.folder)
        if end is None:
            return
        # What killed it, and why it was told to end when this launcher did not, its Pod tells.
        says_all = end.reason is not None or server.ending or (end.exit_code >= 0 and not end.is_told)
        if says_all:
            self._tell_end(server, describe_server_end(end.exit_code, end.reason), by_placement=end.reason is not None)

    def _see_to(self, server: _Server, *, is_seen: bool) -> None:
        """Do what follows from how a server stands."""
        sight = self._cluster.sight_of(server.incarnation)
        if not server.note.is_made and sight.job is None:
            if is_seen or not server.was_tried:
                self._have_made(server)
            return
        if not is_seen:
            return
        if not server.note.is_made:
            self._note_made(server)
        if server.ending > server.deleted:
            self._ask(server, self._delete)
        match standing_of(sight.job, sight.pods, sight.last_pod, sight.lost):
            case Waits(reason=reason) if not server.is_running:
                self._listener.server_waits(server.incarnation, QueuePlace(reason))
            case Runs():
                self._note_running(server)
            case Over(how=how, by_cluster=by_cluster):
                if by_cluster and not server.ending:
                    self._ask(server, self._confirm_end)
                else:
                    self._tell_end(server, how)

    def _have_made(self, server: _Server) -> None:
        if not server.ending:
            if server.obstacle:
                self._listener.server_waits(server.incarnation, QueuePlace(server.obstacle))
            self._ask(server, self._make)
        elif not server.is_busy:  # it has the claim, so it did run, and its Job was deleted since
            self._tell_end(server, "The Job of the simulation was deleted", by_placement=True)

    def _note_running(self, server: _Server) -> None:
        if not server.is_running:
            server.is_running = True
            self._listener.server_spawned(server.incarnation)

    def _note_made(self, server: _Server) -> None:
        server.note = server.note.model_copy(update={"is_made": True})
        try:
            server.note.write(server.folder)
        except OSError as error:  # then the next launcher is told that the Job is there
            log.error("The Job of simulation %d is not noted down: %s", server.folder.simulation_id, error)

    def _tell_end(self, server: _Server, how: str, *, by_placement: bool = False) -> None:
        if not server.is_over:
            server.is_over = True
            words = last_words(server.folder.log) if by_placement else ""
            self._listener.server_ended(server.incarnation, f"{how}{words}", by_placement=by_placement)

    # -- what is asked of the API: in other threads --------------------------------------------------------------------

    def _ask(self, server: _Server, call: Callable[[_Server], None]) -> None:
        """Ask something for a server, one thing at a time, and not too often. `_changed` is held."""

        def ask() -> None:
            tracing.enter(server.context)
            try:
                call(server)
            except ClusterUnavailable as error:
                self._put_off(server, str(error), error.retry_after_s)
            except QuotaExceeded as error:
                self._put_off(server, str(error))
            except Exception:
                log.exception("A call of the Kubernetes API failed")
                self._put_off(server, "A call of the Kubernetes API failed")
            else:
                with self._changed:
                    server.failures, server.obstacle = 0, ""
            finally:
                with self._changed:
                    server.is_busy = False
                    self._note_change()

        if not server.is_busy and not self._is_closing and time.monotonic() >= server.retry_at:
            server.is_busy = True
            self._calls.submit(ask)

    def _put_off(self, server: _Server, obstacle: str, at_least_s: float = 0.0) -> None:
        with self._changed:
            if not server.obstacle:
                log.warning("Simulation %d: %s; it is tried again", server.folder.simulation_id, obstacle)
            server.obstacle = obstacle
            server.retry_at = time.monotonic() + max(at_least_s, delay_after(server.failures))
            server.failures += 1

    def _make(self, server: _Server) -> None:
        with self._changed:
            if server.is_over:
                return
            server.was_tried = True
            job = server.note.job
        try:
            if not container_in(job).get("image"):
                container_in(job)["image"] = self._cluster.own_image(socket.gethostname())
            self._cluster.create(job)
        except JobRefused as error:
            with self._changed:
                self._tell_end(server, str(error), by_placement=True)
            return
        with self._changed:
            if not server.note.is_made:
                self._note_made(server)
        log.info("Simulation %d is the Job %s", server.folder.simulation_id, server.note.name)

    def _delete(self, server: _Server) -> None:
        with self._changed:
            ending = server.ending
        pods = [each["metadata"]["name"] for each in self._cluster.sight_of(server.incarnation).pods]
        self._cluster.delete(server.note.name, pods, grace_s=KILL_GRACE_S if ending is _Ending.KILL else None)
        with self._changed:
            server.deleted = max(server.deleted, ending)

    def _confirm_end(self, server: _Server) -> None:
        """See for sure how the cluster ended a server: what it tells of Jobs and Pods comes separately."""
        sight = self._cluster.look_at(server.note.name, server.incarnation)
        standing = standing_of(sight.job, sight.pods, sight.last_pod, sight.lost)
        with self._changed:
            if isinstance(standing, Over):
                self._tell_end(server, standing.how, by_placement=standing.by_cluster)
            else:  # what is followed is behind
                server.retry_at = time.monotonic() + LOOK_S

    def _delete_left_over(self, server: _Server) -> None:
        self._cluster.delete(server.note.name)
        self._cluster.forget(server.incarnation)
        with self._changed:
            self._left_over.pop(server.incarnation, None)


def _template_of(settings: LauncherSettings) -> JobTemplate:
    data = settings.data_directory.absolute()
    volume = data if settings.kubernetes_volume is None else settings.kubernetes_volume.absolute()
    if settings.kubernetes_job is None:
        raise SettingsError("NRP_PLACEMENT=kubernetes needs NRP_KUBERNETES_JOB, a template of the Jobs")
    if not data.is_relative_to(volume):
        raise SettingsError(
            f"NRP_DATA_DIRECTORY={data} is not on the volume that Jobs share, NRP_KUBERNETES_VOLUME={volume}"
        )
    return JobTemplate(
        read_template(settings.kubernetes_job),
        volume_path=volume,
        launcher=settings.launcher_name,
        node_selectors=settings.kubernetes_node_selectors,
        gpu_resource=settings.kubernetes_gpu_resource,
        stop_grace_s=settings.stop_grace_s,
    )
