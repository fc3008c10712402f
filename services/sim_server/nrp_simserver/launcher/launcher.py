"""The launcher: takes launches, has a simulation server run each, and sees every one to its end."""

from __future__ import annotations

import logging
import signal
import threading
import time
import uuid
from collections.abc import Collection
from datetime import datetime
from importlib.metadata import version
from typing import Final

from nrp_common import logs, tracing
from nrp_common.bus import Bus, Responder, Will
from nrp_common.clone_cache import CloneCache
from nrp_common.errors import NRPError, SettingsError, StorageError
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Archives, Collect, Inquiry, Launch, LauncherPresence, Refusal, Reply, Wishes
from nrp_common.metrics import MetricsServer, new_registry
from nrp_common.storage_client import StorageClient
from nrp_common.token_seal import unseal_token
from nrp_simserver import processes
from nrp_simserver.launcher.data_directory import data_directory_of
from nrp_simserver.launcher.health import health
from nrp_simserver.launcher.launch_site import LaunchSite
from nrp_simserver.launcher.metrics import LauncherMetrics, Uploads
from nrp_simserver.launcher.simulation_credentials import SimulationCredentials
from nrp_simserver.launcher.simulation_record import SimulationRecord
from nrp_simserver.launcher.simulation_server_instance import SimulationServerInstance
from nrp_simserver.launcher.spool import Spool
from nrp_simserver.placement.choice import placement_of
from nrp_simserver.placement.placement import QueuePlace
from nrp_simserver.resources import cgroups
from nrp_simserver.resources.cgroups import CgroupTree
from nrp_simserver.resources.disk_use import DiskUse
from nrp_simserver.resources.process_table import ProcessTable
from nrp_simserver.resources.surge_watch import SurgeWatch
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder, remove_folder

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0

REMEMBER_ENDED_S: Final = 60.0
"""How long the last word on a simulation is said again to a broker that lost it; gateways clear it afterwards."""

ADOPTED_WITHIN_S: Final = 5.0
"""How long a launcher waits to be told of the servers of earlier ones before it takes launches."""

SHUTDOWN_S: Final = 30.0
"""How long the simulations may take to end, with their archives stored, beyond the time they have to stop."""

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

ENDED: Final = "The launcher was ended"


class Launcher:
    """The simulations of one machine, or of those that it has run elsewhere.

    Args:
        settings: what the launcher can be told.

    Raises:
        SettingsError: the interpreter for simulations cannot be used, or the data directory not be written.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        self._topics = settings.topics
        self._lock = threading.Lock()  # guards the instances, and that no more are taken than there is room for
        self._instances: dict[int, SimulationServerInstance] = {}
        self._appearing = threading.Lock()  # what is said last is the latest
        self._is_closing = threading.Event()
        self._storage = StorageClient(settings.storage)
        self._instance = uuid.uuid4().hex
        self._is_heard = False  # so that another one of this name is there now, not one that was before
        self._presence_topic = self._topics.launcher_presence(settings.launcher_name)
        self._bus = Bus(
            settings.broker, "launcher", will=Will(self._presence_topic, LauncherPresence(online=False).to_json())
        )
        tree = _cgroups(settings.cgroup) if settings.placement == "local" else None
        self._credentials = _credentials(settings)
        self._has_adopted = threading.Event()
        self._placement = placement_of(settings, self._bus, tree, self, self._note_servers_not_found, self._server_pids)
        self._room = self._placement.room
        self._registry = new_registry()
        self._metrics_server: MetricsServer | None = None
        self._disk = DiskUse(settings.data_directory, settings.limit_free_disk_mb)
        self._table = ProcessTable()
        self._surge_watch = SurgeWatch(self._processes_surged)
        self._spool = Spool(settings.spool_directory, self._storage_for, self._stored_late, Uploads(self._registry).one)
        self._site = LaunchSite(
            settings=settings,
            bus=self._bus,
            placement=self._placement,
            spool=self._spool,
            clone_cache=CloneCache(settings.clone_cache_directory),
            storage_for=self._storage_for,
            table=self._table,
            disk=self._disk,
            cgroups=tree,
            credentials=self._credentials,
            freed=self._appear,
            metrics=LauncherMetrics(
                self._registry,
                self._bus,
                self._room.places,
                self._all_instances,
                self._spool,
                lambda: len(self._placement.server_pids()),
            ),
        )

    # -- from start to end ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Take over what an earlier launcher left behind, then take launches. The broker may come later.

        Raises:
            SettingsError: the figures cannot be served where they should, or simulations not be placed.
        """
        self._serve_metrics()
        self._take_over_leftovers()
        if self._credentials is not None:
            self._credentials.start()
        self._placement.start({each.incarnation: each.folder for each in self._all_instances()})
        self._has_adopted.wait(ADOPTED_WITHIN_S)
        self._spool.start()
        self._surge_watch.start()
        name = self._settings.launcher_name
        self._bus.serve(self._topics.launch(name), Launch, self._take_launch)
        self._bus.serve(self._topics.collect(name), Collect, self._take_collect)
        self._bus.serve(self._topics.inquiry(name), Inquiry, self._take_inquiry)
        self._bus.subscribe(self._presence_topic, self._hear_of_own_presence)
        self._appear()
        self._bus.start()
        log.info("Launcher '%s' takes %d simulations at once", name, self._room.places)

    def run_until(self, signals: Collection[signal.Signals]) -> None:
        """Work until one of these signals comes, which have to be blocked."""
        # Interrupted by something else than a signal that it waits for (a process that is stopped and continued),
        # CPython's call returns what happened to be in memory.
        while (come := signal.sigtimedwait(signals, ROUND_S)) is None or come.si_signo not in signals:
            self._forget_ended()

    def close(self) -> None:
        """Take no more launches, stop all simulations or leave them to the next launcher, leave the bus."""
        with self._lock:  # none that is being taken is overlooked
            self._is_closing.set()
        self._appear()
        leaves = self._settings.on_shutdown == "leave"
        if leaves:
            self._await_idleness(SHUTDOWN_S, besides_those_on_their_own=True)
        for instance in self._all_instances():
            if not (leaves and instance.is_on_its_own):
                instance.stop(ENDED)
        self._await_idleness(self._settings.stop_grace_s + SHUTDOWN_S, besides_those_on_their_own=leaves)
        self._surge_watch.close()
        self._spool.close()
        if leaves:
            self._placement.leave()
        else:
            self._placement.close()
        if self._credentials is not None:
            self._credentials.close()
        self._bus.forget(self._presence_topic)
        self._bus.close()
        self._storage.close()
        if self._metrics_server is not None:
            self._metrics_server.close()

    def _serve_metrics(self) -> None:
        settings = self._settings
        if settings.metrics_port is not None:
            token = settings.metrics_token.get_secret_value()
            self._metrics_server = MetricsServer(
                self._registry,
                settings.metrics_host,
                settings.metrics_port,
                token,
                is_ready=lambda: self._bus.is_connected and not self._is_closing.is_set(),
            )

    def _await_idleness(self, timeout: float, *, besides_those_on_their_own: bool) -> None:
        """Wait until there is nothing left to do for any simulation."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline and any(
            each.is_busy and not (besides_those_on_their_own and each.is_on_its_own) for each in self._all_instances()
        ):
            time.sleep(0.02)

    def _take_over_leftovers(self) -> None:
        directory = self._settings.simulations_directory
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.iterdir():
            simulation_id = int(path.name) if path.name.isdecimal() else 0
            record = SimulationRecord.read(SimulationFolder(path, simulation_id))
            if record is None:
                log.warning("%s holds no simulation, it is deleted", path)
                remove_folder(path)
            else:
                instance = SimulationServerInstance(record, SimulationFolder(path, simulation_id), self._site)
                self._instances[instance.simulation_id] = instance
        for instance in self._all_instances():
            instance.take_over()

    # -- the bus -------------------------------------------------------------------------------------------------------

    def _take_launch(self, launch: Launch, responder: Responder) -> None:
        with self._lock:
            instance = self._instances.get(launch.simulation_id)
            if instance is None:
                if launch.instance not in ("", self._instance):
                    log.warning("Left simulation %d to another launcher of the same name", launch.simulation_id)
                    return
                if self._is_closing.is_set():
                    responder.reply(Reply(error="it is being shut down", refusal=Refusal.FULL))
                    return
                full = self._room.refusal(launch.wishes, self._running()) or self._disk.refusal()
                if full is not None:
                    responder.reply(Reply(error=full, refusal=Refusal.FULL))
                    return
                instance = self._new_instance(launch)
                self._instances[launch.simulation_id] = instance
                try:
                    instance.launch()
                except OSError as error:
                    del self._instances[launch.simulation_id]
                    self._placement.dismiss(instance.record.incarnation)
                    responder.reply(Reply(error=f"its disk: {error}", refusal=Refusal.FAILED))
                    return
        with tracing.within(launch.context):
            log.info("Took simulation %d of experiment '%s'", launch.simulation_id, launch.experiment_id)
        self._spool.learn_token(launch.owner, launch.sealed_token)
        responder.reply(Reply(state=SimulationState.CREATED, incarnation=instance.record.incarnation))
        self._appear()

    def _new_instance(self, launch: Launch) -> SimulationServerInstance:
        folder = SimulationFolder(
            self._settings.simulations_directory / str(launch.simulation_id), launch.simulation_id
        )
        incarnation = self._placement.reserve()
        record = SimulationRecord(launch=launch, incarnation=incarnation, launched_at=datetime.now().astimezone())
        return SimulationServerInstance(record, folder, self._site)

    def _take_inquiry(self, _inquiry: Inquiry, responder: Responder) -> None:
        responder.reply(Reply(health=health(self._settings.data_directory, self._spool)))

    def _take_collect(self, collect: Collect, responder: Responder) -> None:
        responder.accept()
        name = f"collect {collect.simulation_id}"
        threading.Thread(target=self._collect, args=(collect, responder), name=name, daemon=True).start()

    def _collect(self, collect: Collect, responder: Responder) -> None:
        with self._lock:
            instance = self._instances.get(collect.simulation_id)
        try:
            if instance is not None:
                archive = instance.collect(collect.kind)
            else:
                stored = self._spool.store(collect.simulation_id)
                archive = None if stored is None else stored.of(collect.kind)
        except StorageError as error:
            responder.reply(Reply(error=str(error), refusal=Refusal.STORAGE))
        except (NRPError, OSError) as error:
            responder.reply(Reply(error=str(error), refusal=Refusal.FAILED))
        else:
            nothing = Reply(error="There is nothing of this simulation", refusal=Refusal.UNKNOWN)
            responder.reply(nothing if archive is None else Reply(archive=archive))

    def _appear(self) -> None:
        """Say that this launcher is there, and what room it has."""
        with self._appearing:
            running = self._running()
            presence = LauncherPresence(
                online=True,
                capacity=0 if self._is_closing.is_set() else self._room.places,
                running=len(running),
                labels=self._settings.own_labels,
                free_cores=self._room.free_cores(running),
                free_memory_mb=self._room.free_memory_mb(running),
                free_gpus=self._room.free_gpus(running),
                version=version("nrp-backend"),
                instance=self._instance,
            )
            self._bus.retain(self._presence_topic, presence)

    def _hear_of_own_presence(self, _topic: str, payload: bytes) -> None:
        """Say again that this launcher is there, when somebody else says that it is not.

        That is the last will of an earlier launcher on a machine that lost its power, or of one of the same name.
        """
        presence = LauncherPresence.from_json(payload) if payload else None
        if self._is_closing.is_set():
            return
        if presence is None or not presence.online:
            self._appear()
        elif presence.instance == self._instance:
            self._is_heard = True
        elif self._is_heard:
            self._is_heard = False
            name = self._settings.launcher_name
            log.error("Another launcher is called '%s', too: each needs a NRP_LAUNCHER_NAME of its own", name)

    # -- the placement's reports ---------------------------------------------------------------------------------------

    def is_taken(self, incarnation: str) -> bool:
        """Whether a simulation has this incarnation."""
        return self._of_incarnation(incarnation) is not None

    def server_found(self, incarnation: str) -> None:
        """The server of an earlier launcher is known: what becomes of it will be told."""
        if (instance := self._of_incarnation(incarnation)) is not None:
            instance.server_found()

    def server_waits(self, incarnation: str, place: QueuePlace) -> None:
        """A simulation server waits for a place to run at."""
        if (instance := self._of_incarnation(incarnation)) is not None:
            instance.server_waits(place)

    def server_spawned(self, incarnation: str, pid: int | None = None, spawner: int | None = None) -> None:
        """A simulation server runs."""
        if (instance := self._of_incarnation(incarnation)) is not None:
            instance.server_spawned(pid, spawner)
        else:
            log.error("Simulation server %s runs a simulation whose folder is gone, it is killed", pid or incarnation)
            self._placement.kill(incarnation)

    def server_ended(self, incarnation: str, how: str, *, by_placement: bool = False) -> None:
        """A simulation server has ended, or could not be started."""
        if (instance := self._of_incarnation(incarnation)) is not None:
            instance.server_ended(how, by_placement=by_placement)

    def spawner_ended(self, incarnation: str, how: str) -> None:
        """The spawner of a simulation server has ended, and the server with it."""
        if (instance := self._of_incarnation(incarnation)) is not None:
            instance.spawner_ended(how)

    def _note_servers_not_found(self) -> None:
        """All servers of earlier launchers that there are have been told of."""
        for instance in self._all_instances():
            if instance.is_leftover and not instance.is_placed:
                instance.server_not_found()
        self._has_adopted.set()

    def _processes_surged(self) -> None:
        with self._table.ahead_of_everybody():
            self._table.read()
            for instance in self._all_instances():
                if instance.is_running:
                    instance.processes_surged()

    # -- the instances -------------------------------------------------------------------------------------------------

    def _all_instances(self) -> list[SimulationServerInstance]:
        return list(self._instances.copy().values())

    def _of_incarnation(self, incarnation: str) -> SimulationServerInstance | None:
        return next((each for each in self._all_instances() if each.record.incarnation == incarnation), None)

    def _running(self) -> list[Wishes]:
        """What the simulations that run have asked for."""
        return [each.record.launch.wishes for each in self._all_instances() if each.is_running]

    def _server_pids(self) -> set[int]:
        """Also of idle ones: the kernel takes 20 ms longer to bury a process whose entry in `/proc` was looked at."""
        running = {each.pid for each in self._all_instances() if each.pid is not None}
        return running | self._placement.server_pids()

    def _forget_ended(self) -> None:
        for instance in self._all_instances():
            if instance.over_since is not None and time.monotonic() - instance.over_since > REMEMBER_ENDED_S:
                instance.forget()
                with self._lock:
                    del self._instances[instance.simulation_id]

    # -- the storage ---------------------------------------------------------------------------------------------------

    def _storage_for(self, sealed_token: str) -> StorageClient:
        return self._storage.with_token(unseal_token(sealed_token, self._settings.secret_key.get_secret_value()))

    def _stored_late(self, simulation_id: int, archives: Archives) -> None:
        instance = self._instances.get(simulation_id)
        if instance is not None:
            instance.stored_late(archives)
        else:  # it ended long ago: whoever is there hears it, and the gateway clears the topic again
            self._bus.publish(self._topics.archives(simulation_id), archives, qos=1, retain=True)


def _credentials(settings: LauncherSettings) -> SimulationCredentials | None:
    if not settings.keeps_credentials:
        return None
    return SimulationCredentials(
        settings.broker,
        settings.topics,
        settings.launcher_name,
        settings.simulation_credentials,
        settings.further_topics,
    )


def _cgroups(setting: str) -> CgroupTree | None:
    if setting == "none":
        return None
    try:
        tree = cgroups.claim(setting)
    except cgroups.NoCgroups as reason:
        if setting != "auto":
            raise SettingsError(f"NRP_CGROUP={setting} cannot be used: {reason}") from reason
        log.info("Simulations get no cgroups of their own, as %s: their processes are looked at once a second", reason)
        return None
    tree.remove_empty()
    log.info("Simulations get cgroups of their own, in %s", tree.base)
    return tree


def main(settings: LauncherSettings) -> None:
    """Run a launcher until SIGTERM or SIGINT; then stop its simulations and store their logs, or leave them running.

    Raises:
        SettingsError: a setting is wrong, or another launcher uses the data directory.
    """
    logs.configure("launcher", settings.log_format)
    processes.be_private()
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # in all threads; `run_until` waits for them
    with data_directory_of(settings) as own_settings:
        launcher = Launcher(own_settings)
        launcher.start()
        launcher.run_until(ENDING_SIGNALS)
        launcher.close()
