"""The launcher: takes launches for one machine, has a simulation server run each, and sees every one to its end."""

from __future__ import annotations

import fcntl
import logging
import signal
import threading
import time
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from nrp_common import logs
from nrp_common.bus import Bus, Responder, Will
from nrp_common.clone_cache import CloneCache
from nrp_common.errors import NRPError, SettingsError, StorageError
from nrp_common.lifecycle import SimulationState
from nrp_common.messages import Archives, Collect, Launch, LauncherPresence, Refusal, Reply, Wishes
from nrp_common.storage_client import StorageClient
from nrp_common.token_seal import unseal_token
from nrp_simserver import processes
from nrp_simserver.capacity import MEGABYTE, Room, available_cores, available_memory, default_capacity
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import SimulationFolder, remove_folder
from nrp_simserver.simulation_record import SimulationRecord
from nrp_simserver.simulation_server_instance import LaunchSite, SimulationServerInstance
from nrp_simserver.spawner_connection import SpawnerConnection
from nrp_simserver.spool import Spool

log = logging.getLogger(__name__)

ROUND_S: Final = 1.0

REMEMBER_ENDED_S: Final = 60.0
"""How long the last word on a simulation is said again to a broker that lost it; gateways clear it afterwards."""

SHUTDOWN_S: Final = 30.0
"""How long the simulations may take to end, with their archives stored, beyond the time they have to stop."""

ENDING_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)

ENDED: Final = "The launcher was ended"


class Launcher:
    """The simulations of one machine.

    Args:
        settings: what the launcher can be told.

    Raises:
        SettingsError: the interpreter for simulations cannot be used, or the data directory not be written.
    """

    def __init__(self, settings: LauncherSettings) -> None:
        self._settings = settings
        self._topics = settings.topics
        cores, memory = available_cores(), available_memory()
        self._room = Room(
            places=settings.capacity or default_capacity(cores, memory),
            cores=settings.cores or cores,
            memory_mb=settings.memory_mb or memory // MEGABYTE,
        )
        self._lock = threading.Lock()  # guards the instances, and that no more are taken than there is room for
        self._instances: dict[int, SimulationServerInstance] = {}
        self._appearing = threading.Lock()  # what is said last is the latest
        self._is_closing = threading.Event()
        self._storage = StorageClient(settings.storage)
        self._presence_topic = self._topics.launcher_presence(settings.launcher_name)
        self._bus = Bus(
            settings.broker, "launcher", will=Will(self._presence_topic, LauncherPresence(online=False).to_json())
        )
        self._spawner = SpawnerConnection(settings.python, self)
        self._spool = Spool(settings.spool_directory, self._storage_for, self._stored_late)
        self._site = LaunchSite(
            settings=settings,
            bus=self._bus,
            spawner=self._spawner,
            spool=self._spool,
            clone_cache=CloneCache(settings.clone_cache_directory),
            storage_for=self._storage_for,
            servers=self._server_pids,
            freed=self._appear,
        )

    # -- from start to end ---------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Bury what an earlier launcher left behind, then take launches. The broker may come later."""
        self._spawner.start()
        self._bury_leftovers()
        self._spool.start()
        name = self._settings.launcher_name
        self._bus.serve(self._topics.launch(name), Launch, self._take_launch)
        self._bus.serve(self._topics.collect(name), Collect, self._take_collect)
        self._appear()
        self._bus.start()
        log.info("Launcher '%s' takes %d simulations at once", name, self._room.places)

    def run_until(self, signals: Collection[signal.Signals]) -> None:
        """Work until one of these signals comes, which have to be blocked."""
        while signal.sigtimedwait(signals, ROUND_S) is None:
            self._forget_ended()

    def close(self) -> None:
        """Stop all simulations, store their archives, leave the bus."""
        with self._lock:  # none that is being taken is overlooked
            self._is_closing.set()
        self._appear()
        for instance in self._all_instances():
            instance.stop(ENDED)
        deadline = time.monotonic() + self._settings.stop_grace_s + SHUTDOWN_S
        while time.monotonic() < deadline and any(each.is_busy for each in self._all_instances()):
            time.sleep(0.02)
        self._spool.close()
        self._spawner.close()
        self._bus.forget(self._presence_topic)
        self._bus.close()
        self._storage.close()

    def _bury_leftovers(self) -> None:
        directory = self._settings.simulations_directory
        directory.mkdir(parents=True, exist_ok=True)
        found: list[SimulationServerInstance] = []
        for path in directory.iterdir():
            simulation_id = int(path.name) if path.name.isdecimal() else 0
            record = SimulationRecord.read(SimulationFolder(path, simulation_id))
            if record is None:
                log.warning("%s holds no simulation, it is deleted", path)
                remove_folder(path)
            else:
                found.append(SimulationServerInstance(record, SimulationFolder(path, simulation_id), self._site))
        incarnations = {each.record.incarnation for each in found}
        processes.end_all(lambda: processes.marked(incarnations))
        for instance in found:
            self._instances[instance.simulation_id] = instance
            instance.bury()

    # -- the bus -------------------------------------------------------------------------------------------------------

    def _take_launch(self, launch: Launch, responder: Responder) -> None:
        with self._lock:
            instance = self._instances.get(launch.simulation_id)
            if instance is None:
                if self._is_closing.is_set():
                    responder.reply(Reply(error="it is being shut down", refusal=Refusal.FULL))
                    return
                if (full := self._room.refusal(launch.wishes, self._running())) is not None:
                    responder.reply(Reply(error=full, refusal=Refusal.FULL))
                    return
                instance = self._new_instance(launch)
                try:
                    instance.launch()
                except OSError as error:
                    responder.reply(Reply(error=f"its disk: {error}", refusal=Refusal.FAILED))
                    return
                self._instances[launch.simulation_id] = instance
        self._spool.learn_token(launch.owner, launch.sealed_token)
        responder.reply(Reply(state=SimulationState.CREATED, incarnation=instance.record.incarnation))
        self._appear()

    def _new_instance(self, launch: Launch) -> SimulationServerInstance:
        folder = SimulationFolder(
            self._settings.simulations_directory / str(launch.simulation_id), launch.simulation_id
        )
        record = SimulationRecord(launch=launch, incarnation=uuid.uuid4().hex, launched_at=datetime.now().astimezone())
        return SimulationServerInstance(record, folder, self._site)

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
                version=version("nrp-backend"),
            )
            self._bus.retain(self._presence_topic, presence)

    # -- the spawner's reports -----------------------------------------------------------------------------------------

    def server_spawned(self, incarnation: str, pid: int, spawner: int) -> None:
        """A simulation server runs."""
        for instance in self._of_incarnation(incarnation):
            instance.server_spawned(pid, spawner)

    def server_ended(self, incarnation: str, how: str) -> None:
        """A simulation server has ended, or could not be started."""
        for instance in self._of_incarnation(incarnation):
            instance.server_ended(how)

    # -- the instances -------------------------------------------------------------------------------------------------

    def _all_instances(self) -> list[SimulationServerInstance]:
        return list(self._instances.copy().values())

    def _of_incarnation(self, incarnation: str) -> Iterator[SimulationServerInstance]:
        return (each for each in self._all_instances() if each.record.incarnation == incarnation)

    def _running(self) -> list[Wishes]:
        """What the simulations that run have asked for."""
        return [each.record.launch.wishes for each in self._all_instances() if each.is_running]

    def _server_pids(self) -> set[int]:
        return {each.pid for each in self._all_instances() if each.pid is not None}

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


@contextmanager
def _sole_use_of(data_directory: Path) -> Iterator[None]:
    """Keep other launchers off a data directory: they would take each other's simulations for leftovers."""
    try:
        data_directory.mkdir(parents=True, exist_ok=True)
        with (data_directory / "launcher.lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SettingsError(f"NRP_DATA_DIRECTORY={data_directory} is used by another launcher") from error
            yield
    except OSError as error:
        raise SettingsError(f"NRP_DATA_DIRECTORY={data_directory} cannot be used: {error}") from error


def main(settings: LauncherSettings) -> None:
    """Run a launcher until SIGTERM or SIGINT; then its simulations are stopped and their logs stored.

    Raises:
        SettingsError: a setting is wrong, or another launcher uses the data directory.
    """
    logs.configure("launcher", settings.log_format)
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING_SIGNALS)  # in all threads; `run_until` waits for them
    with _sole_use_of(settings.data_directory):
        launcher = Launcher(settings)
        launcher.start()
        launcher.run_until(ENDING_SIGNALS)
        launcher.close()
