"""Simulation servers as Jobs of a Kubernetes cluster, one each.

What the cluster's API tells of Jobs and Pods is followed all the time, and looked at when something is told.
"""

from __future__ import annotations

import logging
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from nrp_common.bus import Bus
from nrp_common.errors import SettingsError
from nrp_simserver.placement import batch
from nrp_simserver.placement.batch import BatchPlacement, BatchServer, Ending
from nrp_simserver.placement.job import Claim
from nrp_simserver.placement.kubernetes.cluster import IN_A_POD, Cluster, JobRefused, connect, delay_after
from nrp_simserver.placement.kubernetes.job_template import JobTemplate, container_in, read_template
from nrp_simserver.placement.kubernetes.standing import Over, Runs, Waits, standing_of
from nrp_simserver.placement.placement import Listener, QueuePlace, ServerOrder
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder

log = logging.getLogger(__name__)

KILL_GRACE_S: Final = 1
"""Of a Pod that is killed. With none at all the cluster forgets it before it has ended."""

CLOSED_WITHIN_S: Final = 5.0
"""How long the API has at the end to delete what is left."""


class JobNote(batch.JobNote):
    """What is noted down of a Job.

    Attributes:
        job: as it is to be made.
        is_made: whether it is known to be made.
    """

    FILE = "kubernetes_job.json"

    job: dict[str, Any]
    is_made: bool = False

    @property
    def name(self) -> str:
        """Of the Job."""
        return str(self.job["metadata"]["name"])


KubernetesServer = BatchServer[JobNote]


class KubernetesPlacement(BatchPlacement[KubernetesServer]):
    """A `Placement` in a Kubernetes cluster.

    Args:
        settings: the launcher's.
        bus: the launcher's.
        listener: is told what becomes of servers.
        all_told: called once it is known which servers of earlier launchers there are.

    Raises:
        SettingsError: there is no cluster, or Jobs could not work with these settings.
    """

    CLUSTER = "Kubernetes"
    ORPHANED_S = 30.0
    BEING_SUBMITTED = "Its Job is being made"

    def __init__(self, settings: LauncherSettings, bus: Bus, listener: Listener, all_told: Callable[[], None]) -> None:
        super().__init__(settings, bus, listener, all_told)
        self._template = _template_of(settings)
        api, namespace = connect(settings.kubernetes_config, settings.kubernetes_context, settings.kubernetes_namespace)
        if not self._template.has_image and not IN_A_POD.exists():
            raise SettingsError("NRP_KUBERNETES_JOB names no image, and this launcher runs in no Pod to have its from")
        self._left_over: dict[str, KubernetesServer] = {}  # whose Jobs are of no use any more
        self._is_new = True  # something was told that was not looked at
        self._cluster = Cluster(api, namespace, self._template.selector, self._note_change)
        log.info("Simulation servers are Jobs in the namespace '%s' of %s", namespace, api.configuration.host)

    def start(self, leftovers: Mapping[str, SimulationFolder]) -> None:
        """Find the Jobs of earlier launchers, and follow the cluster."""
        super().start(leftovers)
        self._cluster.start()

    def place(self, order: ServerOrder) -> None:
        """Have a Job made. What comes of that the listener is told.

        Raises:
            JobRefused: it asks for what there is not in Kubernetes.
            OSError: the simulation's folder cannot be written to.
        """
        if partition := order.launch.wishes.partition:
            raise JobRefused(f"Kubernetes has no partitions, the launch asks for '{partition}'. Ask for labels instead")
        super().place(order)

    def close(self) -> None:
        """Delete all Jobs that are left."""
        with self._changed:
            for server in self._servers.values():
                self._release(server)
            self._note_change()
            self._changed.wait_for(lambda: not self._left_over, CLOSED_WITHIN_S)
        self.leave()

    def leave(self) -> None:
        """Look no more; Jobs run on, and wait on."""
        self._cluster.close()
        super().leave()

    def _ordered(self, order: ServerOrder, folder: SimulationFolder, order_file: Path) -> KubernetesServer:
        job = self._template.job_for(order, order_file, self._settings.heartbeat_file)
        return KubernetesServer(order.setup.incarnation, folder, JobNote(job=job))

    def _found(self, incarnation: str, folder: SimulationFolder) -> KubernetesServer | None:
        note = JobNote.read(folder)
        return None if note is None else KubernetesServer(incarnation, folder, note)

    def _release(self, server: KubernetesServer) -> None:
        self._left_over[server.incarnation] = server

    def _is_free(self, server: KubernetesServer) -> bool:
        if server.is_online or server.is_busy:
            return False
        if server.incarnation not in self._left_over:
            sight = self._cluster.sight_of(server.incarnation)
            return all(each["metadata"]["name"] in sight.lost for each in sight.pods)
        return False

    def _urged(self, server: KubernetesServer) -> None:
        if not server.is_running and self._keep_from_running(server):
            self._release(server)
            self._tell_end(server, "The simulation was ended before its Job ran")

    @staticmethod
    def _keep_from_running(server: KubernetesServer) -> bool:
        """Take the claim on a simulation, so that no Job has it. Returns whether none had it before."""
        claim = Claim(run=uuid.uuid4().hex, job="", node=socket.gethostname())
        try:
            return claim.take_first(server.folder)
        except OSError as error:
            log.error("The claim on simulation %d cannot be taken: %s", server.folder.simulation_id, error)
            return False

    # -- what is seen of the cluster -----------------------------------------------------------------------------------

    def _note_change(self) -> None:
        with self._changed:
            self._is_new = True
            self._changed.notify_all()

    def _until_next_look(self) -> float:
        if self._is_new:
            return 0.0
        asked_again_at = [each.retry_at for each in (*self._servers.values(), *self._left_over.values())]
        due = [self._looked_at + self._pace_s(), *(each for each in asked_again_at if each > self._looked_at)]
        return min(due) - time.monotonic()

    def _look(self) -> None:
        with self._changed:
            self._is_new = False
            self._looked_at = time.monotonic()
            is_seen = self._cluster.has_been_seen
            if is_seen:
                self._find_left_over()
            for server in list(self._servers.values()):
                if not server.is_over:
                    self._see_to(server, is_seen=is_seen)
            for server in list(self._left_over.values()):
                self._ask(server, self._delete_left_over)
            self._changed.notify_all()
        if is_seen:
            self._tell_all_told()

    def _find_left_over(self) -> None:
        """Find the Jobs whose simulations are over, or never were."""
        for incarnation, job in self._cluster.jobs().items():
            if incarnation in self._servers or incarnation in self._left_over or self._listener.is_taken(incarnation):
                continue
            log.info("The Job %s is of no simulation, it is deleted", job["metadata"]["name"])
            self._left_over[incarnation] = KubernetesServer(incarnation, SimulationFolder(Path(), 0), JobNote(job=job))

    # -- what is seen of one server ------------------------------------------------------------------------------------

    def _see_to(self, server: KubernetesServer, *, is_seen: bool) -> None:
        """Do what follows from how a server stands."""
        sight = self._cluster.sight_of(server.incarnation)
        if not server.note.is_made and sight.job is None:
            if is_seen or not server.may_have_job:
                self._have_made(server)
            return
        if not is_seen:
            return
        if not server.note.is_made:
            self._note_made(server)
        if server.ending > server.told:
            self._ask(server, self._delete)
        match standing_of(sight.job, sight.pods, sight.last_pod, sight.lost):
            case Waits(reason=reason) if not server.is_running:
                self._listener.server_waits(server.incarnation, QueuePlace(reason))
            case Runs():
                self._note_running(server)
            case Over(how=how, by_cluster=by_cluster):
                self._read_end(server)  # what it says itself was there before the cluster told
                if not by_cluster or server.ending:
                    self._tell_end(server, how)
                elif not server.is_over:
                    self._ask(server, self._confirm_end)

    def _have_made(self, server: KubernetesServer) -> None:
        if not server.ending:
            if server.obstacle:
                self._listener.server_waits(server.incarnation, QueuePlace(server.obstacle))
            self._ask(server, self._submit)
        elif not server.is_busy:  # it has the claim, so it did run, and its Job was deleted since
            self._tell_end(server, "The Job of the simulation was deleted", by_placement=True)

    def _note_made(self, server: KubernetesServer) -> None:
        server.note = server.note.model_copy(update={"is_made": True})
        self._write_note(server)

    # -- what is asked of the API: in other threads --------------------------------------------------------------------

    def _delay_after(self, failures: int) -> float:
        return delay_after(failures)

    def _submit(self, server: KubernetesServer) -> None:
        with self._changed:
            if server.is_over:
                return
            server.may_have_job = True
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

    def _delete(self, server: KubernetesServer) -> None:
        with self._changed:
            ending = server.ending
        pods = [each["metadata"]["name"] for each in self._cluster.sight_of(server.incarnation).pods]
        self._cluster.delete(server.note.name, pods, grace_s=KILL_GRACE_S if ending >= Ending.CANCEL else None)
        with self._changed:
            server.told = max(server.told, ending)

    def _confirm_end(self, server: KubernetesServer) -> None:
        """See for sure how the cluster ended a server: what it tells of Jobs and Pods comes separately."""
        sight = self._cluster.look_at(server.note.name, server.incarnation)
        standing = standing_of(sight.job, sight.pods, sight.last_pod, sight.lost)
        with self._changed:
            if isinstance(standing, Over):
                self._tell_end(server, standing.how, by_placement=standing.by_cluster)
            else:  # what is followed is behind
                server.retry_at = time.monotonic() + batch.LOOK_S

    def _delete_left_over(self, server: KubernetesServer) -> None:
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
