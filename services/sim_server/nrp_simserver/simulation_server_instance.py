"""A launcher's handle on one simulation server: from the launch until the simulation's folder is freed."""

from __future__ import annotations

import logging
import math
import queue
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from nrp_common.bus import Bus, Responder
from nrp_common.clone_cache import CloneCache
from nrp_common.errors import BusUnavailable, InvalidTransition, NRPError, SimulationFinal
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import (
    ArchiveKind,
    Archives,
    Command,
    CommandEvent,
    ErrorType,
    FailedStatus,
    LifecycleMessage,
    Refusal,
    Reply,
    RuntimeErrorReport,
    Status,
)
from nrp_common.storage_client import StorageClient
from nrp_simserver import processes
from nrp_simserver.archives import size_of_logs, snapshot
from nrp_simserver.archiving import Archiving
from nrp_simserver.settings import LauncherSettings
from nrp_simserver.simulation_folder import ServerSetup, SimulationFolder, remove_folder
from nrp_simserver.simulation_record import SimulationRecord, write_snapshot
from nrp_simserver.spawner_connection import SpawnerConnection
from nrp_simserver.spool import Spool

log = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 1.0
"""Between two looks at a simulation's log and at whether it is ready."""

STORED_WITHIN_S: Final = 5.0
"""How long after the end of a simulation its final word waits for its archives to be stored."""

MEGABYTE: Final = 1_000_000

COMMANDS_UNDER_WAY: Final = 16
"""How many commands to a server that dies are answered in its place."""

BROKER_AWAY_S: Final = 60.0
"""Between two looks at whether a broker is back."""

DELIVERED_WITHIN_S: Final = 5.0
"""How long a broker that is there may take to acknowledge the final word."""

LAST_WORDS_LINES: Final = 10
LAST_WORDS_BYTES: Final = 2000
"""How much of a log's end goes into the reason of a failure."""

LAUNCHER_ENDED: Final = "The launcher ended while the simulation ran, and the simulation with it"


@dataclass(frozen=True)
class LaunchSite:
    """What all simulations of a launcher share."""

    settings: LauncherSettings
    bus: Bus
    spawner: SpawnerConnection
    spool: Spool
    clone_cache: CloneCache
    storage_for: Callable[[str], StorageClient]
    """The Storage Server for the owner of a sealed token."""
    servers: Callable[[], set[int]]
    """The process ids of all simulation servers that are running."""
    freed: Callable[[], None]
    """Called when nothing of a simulation runs any more, before its final word."""

    @property
    def node(self) -> str:
        """Who speaks the final word."""
        return f"nrp_launcher_{self.settings.launcher_name}"


# -- what an instance is told ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Cloned:
    error: NRPError | OSError | None = None


@dataclass(frozen=True)
class _Ended:
    how: str
    """In words."""


@dataclass(frozen=True)
class _StopAsked:
    reason: str | None = None
    """Why, when it was not the owner who asked."""


@dataclass(frozen=True)
class _Overruled:
    by: LifecycleMessage


_News = _Cloned | _Ended | _StopAsked | _Overruled


@dataclass(frozen=True)
class _Verdict:
    """How a simulation ended."""

    event: SimulationEvent
    reason: str | None = None
    report: ErrorType | None = None
    """The kind of error that is still to be reported, as the simulation server could not."""


class SimulationServerInstance:
    """One simulation on this machine, and the thread that sees it through; all others only tell that thread news.

    Attributes:
        record: what was asked, and what is noted down for the next launcher.
        folder: the simulation's.
        pid: the server's process id while it runs.
        is_running: whether anything of it runs, or may.
        over_since: when all was done, in `time.monotonic()` seconds; None before.
    """

    def __init__(self, record: SimulationRecord, folder: SimulationFolder, site: LaunchSite) -> None:
        self.record = record
        self.folder = folder
        self.pid: int | None = None
        self.is_running = True
        self.over_since: float | None = None
        self._site = site
        self._topics = site.settings.topics
        self._archiving = Archiving(record, folder, site.spool, site.storage_for)
        self._news: queue.SimpleQueue[_News] = queue.SimpleQueue()
        self._spawner: int | None = None  # the process id of the spawner that the server is below
        self._is_leftover = False  # of an earlier launcher
        self._cloning: threading.Thread | None = None
        self._has_server = False  # one is there, or about to be, that answers commands
        self._is_ready = False
        self._stop: _StopAsked | None = None
        self._failure: str | None = None  # why this launcher ended the simulation
        self._kill_at = math.inf
        self._is_final_spoken = threading.Event()
        self._awaits_broker = False
        self._commands: deque[Responder] = deque(maxlen=COMMANDS_UNDER_WAY)

    @property
    def simulation_id(self) -> int:
        """Of the simulation."""
        return self.record.launch.simulation_id

    @property
    def is_busy(self) -> bool:
        """Whether there is something left to do, other than to wait for a broker that is away."""
        return self.over_since is None and not self._awaits_broker

    # -- what others tell it -------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Begin: clone the experiment, start a server, see it through."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.record.write(self.folder)
        self._listen()
        self._start_thread(self._launch)

    def bury(self) -> None:
        """End what an earlier launcher left of this simulation: its processes, its archives, its folder."""
        self.is_running = False
        self._is_leftover = True
        self._listen()
        self._start_thread(self._bury_leftovers)

    def server_spawned(self, pid: int, spawner: int) -> None:
        """The simulation server runs, below this spawner."""
        self.pid, self._spawner = pid, spawner

    def server_ended(self, how: str) -> None:
        """There is no simulation server any more."""
        self._news.put(_Ended(how))

    def stop(self, reason: str) -> None:
        """Stop the simulation, although its owner did not ask for it."""
        self._news.put(_StopAsked(reason))

    def stored_late(self, archives: Archives) -> None:
        """Tell where the archives are, which the final word could not."""
        self._is_final_spoken.wait()
        self._site.bus.retain(self._topics.archives(self.simulation_id), archives)

    def collect(self, kind: ArchiveKind) -> str | None:
        """Put the logs or results so far into the experiment. Returns the archive's name, None when there is none.

        Raises:
            StorageError: the Storage Server does not take it.
        """
        return self._archiving.collect(kind)

    def forget(self) -> None:
        """Leave what is retained on the bus to the gateways."""
        for topic in self._retained_topics():
            self._site.bus.forget(topic, clear=False)

    def _retained_topics(self) -> list[str]:
        topics, own = self._topics, self.simulation_id
        return [topics.lifecycle(own), topics.status(own), topics.archives(own)]

    # -- the bus -------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        self._site.bus.serve(self._topics.command(self.simulation_id), Command, self._take_command)
        self._site.bus.subscribe(self._topics.lifecycle(self.simulation_id), self._hear_of_transition)

    def _take_command(self, command: Command, responder: Responder) -> None:
        """Take part in a stop, and answer what no server is there to answer."""
        journal = self.folder.read_journal()
        if command.event is CommandEvent.STOPPED:
            self._news.put(_StopAsked())
            responder.reply(Reply(state=journal.state, incarnation=self.record.incarnation, seq=journal.seq))
        elif not self._has_server:
            error = InvalidTransition(journal.state, command.event) if self.is_running else SimulationFinal()
            responder.reply(Reply(error=str(error), refusal=Refusal.INVALID))
        else:
            self._commands.append(responder)

    def _hear_of_transition(self, _topic: str, payload: bytes) -> None:
        message = LifecycleMessage.from_json(payload)
        if (
            message is not None
            and message.target_state.is_final
            and message.source_node != self._site.node
            and message.incarnation in ("", self.record.incarnation)
        ):
            self._news.put(_Overruled(message))

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _start_thread(self, course: Callable[[], _Verdict]) -> None:
        def see_through() -> None:
            try:
                verdict = course()
            except Exception as error:
                log.exception("Simulation %d was lost", self.simulation_id)
                verdict = _Verdict(SimulationEvent.FAILED, f"The launcher failed: {error}", ErrorType.RUNTIME)
            self._end(verdict)

        threading.Thread(target=see_through, name=f"simulation {self.simulation_id}", daemon=True).start()

    def _launch(self) -> _Verdict:
        self._cloning = threading.Thread(target=self._clone, name=f"clone {self.simulation_id}", daemon=True)
        self._cloning.start()
        while True:
            match self._next_news():
                case _Cloned(error=None):
                    break
                case _Cloned(error=error):
                    return _Verdict(SimulationEvent.FAILED, str(error), ErrorType.LOADING)
                case _:
                    if self._stop is not None:
                        return _Verdict(SimulationEvent.STOPPED, self._stop.reason)
        assert self._archiving.cloned is not None
        write_snapshot(self.folder, self._archiving.cloned)
        self._has_server = True
        try:
            self._site.spawner.spawn(self._setup())
        except NRPError as error:
            return _Verdict(SimulationEvent.FAILED, str(error), ErrorType.LOADING)
        return self._watch()

    def _clone(self) -> None:
        launch = self.record.launch
        try:
            storage = self._site.storage_for(launch.sealed_token)
            storage.clone(launch.experiment_id, self.folder.experiment, self._site.clone_cache)
            self._archiving.cloned = snapshot(self.folder.experiment)
        except (NRPError, OSError) as error:
            self._news.put(_Cloned(error))
        else:
            self._news.put(_Cloned())

    def _watch(self) -> _Verdict:
        """Wait for the end of the server; see to it that it comes when it has to."""
        started_at = time.monotonic()
        while True:
            news = self._next_news()
            if isinstance(news, _Ended):
                return self._verdict(news)
            if time.monotonic() >= self._kill_at:
                self._kill_at = math.inf
                self._site.spawner.signal(self.record.incarnation, signal.SIGKILL)
            if self._failure is None and self._stop is None:
                self._failure = self._find_fault(time.monotonic() - started_at)
                if self._failure is not None:
                    self._site.spawner.signal(self.record.incarnation, signal.SIGKILL)

    def _next_news(self) -> _News | None:
        """What is new, taken note of; None when a while has passed without anything."""
        try:
            news = self._news.get(timeout=max(0.0, min(CHECK_INTERVAL_S, self._kill_at - time.monotonic())))
        except queue.Empty:
            return None
        match news:
            case _StopAsked():
                self._have_stopped(news)
            case _Overruled(by=message):
                self._note_final_word(message)
                self._have_stopped(_StopAsked(message.reason))
        return news

    def _have_stopped(self, asked: _StopAsked) -> None:
        if self._stop is not None:
            return
        self._stop = asked
        self._kill_at = time.monotonic() + self._site.settings.stop_grace_s
        if self._has_server:  # it may know already, or be cut off from the bus
            self._site.spawner.signal(self.record.incarnation, signal.SIGTERM)

    def _find_fault(self, age_s: float) -> str | None:
        """Why the simulation has to be ended, None when it has not."""
        settings = self._site.settings
        if size_of_logs(self.folder) > settings.log_limit_mb * MEGABYTE:
            return f"The simulation wrote more than {settings.log_limit_mb} MB to its logs (limit NRP_LOG_LIMIT_MB)"
        self._is_ready = self._is_ready or self.folder.read_journal().seq > 0
        if not self._is_ready and age_s > settings.initialise_timeout_s:
            return f"The simulation was not ready after {settings.initialise_timeout_s:g} s"
        return None

    def _verdict(self, ended: _Ended) -> _Verdict:
        journal = self.folder.read_journal()
        if self._failure is not None:
            return _Verdict(SimulationEvent.FAILED, self._failure, ErrorType.RUNTIME)
        if journal.error is not None:
            return _Verdict(SimulationEvent.FAILED, journal.error)
        if self._stop is not None:
            return _Verdict(SimulationEvent.STOPPED, self._stop.reason)
        if journal.stopping:
            return _Verdict(SimulationEvent.STOPPED)
        kind = ErrorType.RUNTIME if journal.seq else ErrorType.LOADING
        return _Verdict(SimulationEvent.FAILED, f"{ended.how}{self._last_words()}", kind)

    def _last_words(self) -> str:
        try:
            end = self.folder.log.read_bytes()[-LAST_WORDS_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        lines = end.strip().splitlines()[-LAST_WORDS_LINES:]
        return "; its last words:\n" + "\n".join(lines) if lines else ""

    # -- the end -------------------------------------------------------------------------------------------------------

    def _bury_leftovers(self) -> _Verdict:
        journal = self.folder.read_journal()
        if journal.error is not None:
            return _Verdict(SimulationEvent.FAILED, journal.error)
        if journal.stopping:
            return _Verdict(SimulationEvent.STOPPED)
        return _Verdict(SimulationEvent.FAILED, LAUNCHER_ENDED, ErrorType.RUNTIME)

    def _end(self, verdict: _Verdict) -> None:
        """Leave nothing running, store what is to be kept, speak the final word, free the folder."""
        self._end_processes()
        self._has_server = False
        self.pid = None
        self.is_running = False
        self._site.freed()
        stored = self._archiving.store(STORED_WITHIN_S, self.stored_late)
        self._note_final_word(self._final_word(verdict, stored))
        if self._archiving.is_safe:
            remove_folder(self.folder.experiment)
        self._speak_final_word(verdict, stored)
        self._is_final_spoken.set()
        for responder in self._commands:  # who still waits for an answer asked a server that died over it
            responder.reply(Reply(error=f"The simulation {verdict.event}", refusal=Refusal.FAILED))
        self._archiving.wait_until_safe()
        self._await_delivery()
        remove_folder(self.folder.path)
        self._site.bus.unsubscribe(self._topics.command(self.simulation_id))
        self._site.bus.unsubscribe(self._topics.lifecycle(self.simulation_id))
        self.over_since = time.monotonic()
        if self._cloning is not None:  # it cannot be interrupted, and may still write something
            self._cloning.join()
            remove_folder(self.folder.path)

    def _await_delivery(self) -> None:
        """Wait until the final word is out: should this launcher end before, the next one finds it in the folder."""
        while not self._site.bus.is_connected:
            self._awaits_broker = True
            with suppress(BusUnavailable):
                self._site.bus.wait_until_connected(BROKER_AWAY_S)
        self._site.bus.flush(DELIVERED_WITHIN_S)

    def _end_processes(self) -> None:
        """End what the server left running: below the spawner, or anybody's children when that is gone, too."""
        incarnation, spawner, server = self.record.incarnation, self._spawner, self.pid
        if spawner is not None and server is not None:
            besides = self._site.servers() - {server}
            processes.end_all(
                lambda: processes.left_behind(spawner, server, incarnation, self.folder.path, besides=besides)
            )
        if spawner is None or processes.has_ended(spawner):
            processes.end_all(lambda: processes.marked({incarnation}))

    def _final_word(self, verdict: _Verdict, stored: Archives) -> LifecycleMessage:
        journal = self.folder.read_journal()
        return LifecycleMessage(
            source_node=self._site.node,
            source_state=journal.state,
            event=verdict.event,
            target_state=verdict.event.target,
            incarnation=self.record.incarnation,
            seq=journal.seq + 1,
            reason=verdict.reason,
            logs=stored.logs,
            results=stored.results,
        )

    def _note_final_word(self, message: LifecycleMessage) -> None:
        """Have it spoken again, not another one, if this launcher dies now. The first one counts."""
        if self.record.final is None:
            self.record.final = message
            try:
                self.record.write(self.folder)
            except OSError as error:
                log.error("The record of simulation %d cannot be written: %s", self.simulation_id, error)

    def _speak_final_word(self, verdict: _Verdict, stored: Archives) -> None:
        """Publish the final state, unless somebody else did, and where the archives are if it does not say so."""
        bus, topics, final = self._site.bus, self._topics, self.record.final
        assert final is not None
        # A gateway that gave up on an earlier launcher listens to nothing else any more.
        if self._is_leftover or Archives(logs=final.logs, results=final.results) != stored:
            bus.retain(topics.archives(self.simulation_id), stored)
        if final.source_node != self._site.node:
            return
        reason = final.reason or ""
        if verdict.report is not None:
            report = RuntimeErrorReport(sim_id=str(self.simulation_id), msg=reason, error_type=verdict.report)
            bus.publish(topics.runtime_error(self.simulation_id), report, qos=1)
        journal = self.folder.read_journal()
        times = journal.model_dump(include={"simulation_time", "real_time", "simulation_time_left"})
        failed = final.event is SimulationEvent.FAILED
        status = FailedStatus(state=final.target_state, error=reason, **times) if failed else None
        bus.retain(topics.lifecycle(self.simulation_id), final)
        bus.retain(topics.status(self.simulation_id), status or Status(state=final.target_state, **times))
        log.info("Simulation %d %s: %s", self.simulation_id, final.event, reason or "as it was asked to")

    # -- the server ----------------------------------------------------------------------------------------------------

    def _setup(self) -> ServerSetup:
        settings, launch = self._site.settings, self.record.launch
        broker = settings.broker
        return ServerSetup(
            simulation_id=launch.simulation_id,
            incarnation=self.record.incarnation,
            folder=self.folder.path,
            configuration=launch.configuration,
            main_script=launch.main_script,
            real_time_factor=launch.wishes.real_time_factor,
            broker_host=broker.host,
            broker_port=broker.port,
            broker_username=broker.username,
            broker_password=broker.password,
            broker_tls=broker.tls,
            broker_ca_file=broker.ca_file,
            mqtt_prefix=self._topics.prefix,
            status_interval_s=settings.status_interval_s,
            core=settings.core,
            engine_processes=settings.engine_processes,
            nrpcoresim=settings.nrpcoresim_options,
        )
