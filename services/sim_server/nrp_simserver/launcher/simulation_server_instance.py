"""A launcher's handle on one simulation server: from the launch until the simulation's folder is freed."""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from typing import Final

from nrp_common import tracing
from nrp_common.bus import Responder
from nrp_common.errors import BusUnavailable, NRPError
from nrp_common.lifecycle import SimulationEvent
from nrp_common.messages import (
    ArchiveKind,
    Archives,
    Command,
    CommandEvent,
    ErrorType,
    LifecycleMessage,
    Reply,
)
from nrp_simserver import processes
from nrp_simserver.launcher.archives import size_of_logs, snapshot
from nrp_simserver.launcher.archiving import Archiving
from nrp_simserver.launcher.final_word import FinalWord
from nrp_simserver.launcher.idle_culling import IdleCulling
from nrp_simserver.launcher.launch_site import LaunchSite
from nrp_simserver.launcher.metrics import LaunchPhases
from nrp_simserver.launcher.news import Cloned, Ended, News, Overruled, Spawned, StopAsked, Swollen, Waits
from nrp_simserver.launcher.queue_notice import QueueNotice
from nrp_simserver.launcher.simulation_record import Intention, SimulationRecord, write_snapshot
from nrp_simserver.launcher.stand_in import StandIn
from nrp_simserver.launcher.verdict import Verdict, verdict_on
from nrp_simserver.placement.local.spawner_connection import THE_SPAWNER
from nrp_simserver.placement.placement import QueuePlace
from nrp_simserver.resources.limits import Excess, Limited
from nrp_simserver.server_end import ServerEnd, describe_server_end
from nrp_simserver.simulation_folder import Credentials, Journal, SimulationFolder, remove_folder

log = logging.getLogger(__name__)

CHECK_INTERVAL_S: Final = 1.0
"""Between two looks at a simulation's log and at whether it is ready."""

STORED_WITHIN_S: Final = 5.0
"""How long after the end of a simulation its final word waits for its archives to be stored."""

MEGABYTE: Final = 1_000_000

HEARD_WITHIN_S: Final = 1.0
"""How long a broker may take to tell what was said of a simulation before, which may be nothing."""

ORDERS: Final = 3
"""How often a server is ordered, when each time the spawner dies before it says that there is one."""

NEVER_STARTED: Final = "The launcher ended before it had a simulation server started"

FOLDER_GONE: Final = "The simulation's folder was deleted while it ran"

SPAWNER_ENDED: Final = f"{THE_SPAWNER} ended while there was no launcher, and the simulation with it"


class SimulationServerInstance:
    """One simulation on this machine, and the thread that sees it through; all others only tell that thread news.

    Attributes:
        record: what was asked, and what is noted down for the next launcher.
        folder: the simulation's.
        pid: the server's process id while it runs on this machine.
        is_placed: whether it is known to run, or to wait for its turn to.
        is_running: whether anything of it runs, or may.
        is_leftover: whether an earlier launcher began with it.
        over_since: when all was done, in `time.monotonic()` seconds; None before.
    """

    def __init__(self, record: SimulationRecord, folder: SimulationFolder, site: LaunchSite) -> None:
        self.record = record
        self.folder = folder
        self.pid: int | None = None
        self.is_placed = False
        self.is_running = True
        self.is_leftover = False
        self.over_since: float | None = None
        self._site = site
        self._topics = site.settings.topics
        self._archiving = Archiving(record, folder, site.spool, site.storage_for, site.disk)
        self._limits = site.limits_of(record, folder)
        self._culling = IdleCulling(site.settings.idle_timeout_s, site.bus, self._topics.status(self.simulation_id))
        self._queue_notice = QueueNotice(site.bus, self._topics.status(self.simulation_id))
        self._news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._spawner: int | None = None  # the process id of the spawner that the server is below
        self._phases: LaunchPhases | None = None  # of a launch by this launcher
        self._cloning: threading.Thread | None = None
        self._credentials: Credentials | None = None  # at the broker, of a launch by this launcher
        self._is_ready = False
        self._kill_at = math.inf
        self._has_heard = threading.Event()  # what was said of the simulation last
        self._heard: LifecycleMessage | None = None  # of its server, the latest that is not final
        self._stand_in = StandIn()
        self._final_word = FinalWord(record, folder, site)

    @property
    def simulation_id(self) -> int:
        """Of the simulation."""
        return self.record.launch.simulation_id

    @property
    def incarnation(self) -> str:
        """Of its simulation server."""
        return self.record.incarnation

    @property
    def is_busy(self) -> bool:
        """Whether there is something left to do, other than to wait for a broker that is away."""
        return self.over_since is None and not self._final_word.awaits_broker

    @property
    def is_on_its_own(self) -> bool:
        """Whether there is nothing to do for this launcher, as its server runs and is not being ended."""
        return self.is_running and self.is_placed and self.record.intention is None

    # -- what others tell it -------------------------------------------------------------------------------------------

    def launch(self) -> None:
        """Begin: clone the experiment, start a server, see it through."""
        self.folder.path.mkdir(parents=True, exist_ok=True)
        self.record.write(self.folder)
        self._phases = self._site.metrics.launch(self.incarnation)
        self._listen()
        self._start_thread(self._launch)

    def take_over(self) -> None:
        """See the simulation of an earlier launcher through, as soon as it is told what became of its server."""
        self.is_leftover = True
        if self._site.credentials is not None:
            self._site.credentials.expect(self.simulation_id, self.incarnation)
        self._stand_in.server_is_there()  # as far as is known
        self._listen()
        self._start_thread(self._take_over)

    def server_found(self) -> None:
        """The server of an earlier launcher is known, what became of it will be told."""
        self.is_placed = True

    def server_waits(self, place: QueuePlace) -> None:
        """The simulation server waits for a place to run at."""
        self.is_placed = True
        self._news.put(Waits())
        self._queue_notice.tell(place)

    def server_spawned(self, pid: int | None, spawner: int | None) -> None:
        """The simulation server runs, below this spawner when it is on this machine."""
        self.pid, self._spawner = pid, spawner
        self.is_placed = True
        self._queue_notice.take_back()
        self._note_phase("spawn")
        self._news.put(Spawned())

    def server_not_found(self) -> None:
        """No spawner of an earlier launcher has the server any more: how it ended is in the folder, if anywhere."""
        end = ServerEnd.read(self.folder)
        if end is not None:
            self.pid, self._spawner = end.pid, end.spawner
            self.server_ended(describe_server_end(end.exit_code, end.reason), by_placement=end.reason is not None)
        else:
            self.server_ended(SPAWNER_ENDED if self.folder.journal.exists() else NEVER_STARTED)

    def server_ended(self, how: str, *, by_placement: bool = False) -> None:
        """There is no simulation server any more."""
        self._news.put(Ended(how, by_placement=by_placement))

    def spawner_ended(self, how: str) -> None:
        """The spawner has ended that was to start the simulation server, and the server with it."""
        self._news.put(Ended(how, with_spawner=True))

    def stop(self, reason: str) -> None:
        """Stop the simulation, although its owner did not ask for it."""
        self._news.put(StopAsked(reason))

    def processes_surged(self) -> None:
        """The machine has many more processes than a moment ago: when they are of this simulation it is killed."""
        excess = self._limits.excess_of_processes(self.pid, self._spawner)
        if excess is not None:
            self._news.put(Swollen(excess))
            self._limits.kill(self.pid, self._spawner)

    def stored_late(self, archives: Archives) -> None:
        """Its archives are stored, which its final word could not tell yet."""
        self._final_word.add_archives(archives)

    def collect(self, kind: ArchiveKind) -> str | None:
        """Put the logs or results so far into the experiment. Returns the archive's name, None when there is none.

        Raises:
            StorageError: the Storage Server does not take it.
        """
        return self._archiving.collect(kind)

    def read_journal(self) -> Journal:
        """How far the simulation got, as its server has noted it down, or at least said where that was lost."""
        journal, heard = self.folder.read_journal(), self._heard
        if heard is None or heard.seq <= journal.seq:
            return journal
        return journal.model_copy(update={"state": heard.target_state, "seq": heard.seq})

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
        self._culling.stir()
        if command.event is CommandEvent.STOPPED:
            journal = self.read_journal()  # before it ends, and its folder goes
            with tracing.within(
                tracing.current()._replace(simulation=self.simulation_id, owner=self.record.launch.owner)
            ):
                log.info("Simulation %d is asked to stop", self.simulation_id)
            self._news.put(StopAsked())
            responder.reply(Reply(state=journal.state, incarnation=self.record.incarnation, seq=journal.seq))
        else:
            self._stand_in.take(command, responder)

    def _hear_of_transition(self, _topic: str, payload: bytes) -> None:
        message = LifecycleMessage.from_json(payload)
        self._has_heard.set()
        if message is None:
            return
        if message.event is SimulationEvent.INITIALIZED:
            self._note_phase("initialise")
        if message.target_state.is_final:
            if message.source_node != self._site.node and message.incarnation in ("", self.incarnation):
                self._news.put(Overruled(message))
        elif message.incarnation == self.incarnation and (self._heard is None or message.seq > self._heard.seq):
            self._heard = message

    def _note_phase(self, phase: str) -> None:
        if self._phases is not None:
            self._phases.over(phase)

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _start_thread(self, course: Callable[[], Verdict]) -> None:
        def see_through() -> None:
            tracing.enter(self.record.launch.context)
            try:
                verdict = course()
            except Exception as error:
                log.exception("Simulation %d was lost", self.simulation_id)
                verdict = Verdict(SimulationEvent.FAILED, f"The launcher failed: {error}", ErrorType.RUNTIME)
            self._end(verdict)

        threading.Thread(target=see_through, name=f"simulation {self.simulation_id}", daemon=True).start()

    def _launch(self) -> Verdict:
        self._cloning = threading.Thread(target=self._clone, name=f"clone {self.simulation_id}", daemon=True)
        self._cloning.start()
        if (fault := self._get_credentials()) is not None:
            self._site.placement.dismiss(self.record.incarnation)
            return Verdict(SimulationEvent.FAILED, f"The simulation gets no credentials: {fault}", ErrorType.LOADING)
        while True:
            match self._next_news():
                case Cloned(error=None):
                    break
                case Cloned(error=error):
                    self._site.placement.dismiss(self.record.incarnation)
                    return Verdict(SimulationEvent.FAILED, str(error), ErrorType.LOADING)
                case _ if self.record.intention is not None:
                    self._site.placement.dismiss(self.record.incarnation)
                    return Verdict(SimulationEvent.STOPPED, self.record.intention.reason)
        assert self._archiving.cloned is not None
        try:
            self._limits.prepare()
        except OSError as error:
            self._site.placement.dismiss(self.record.incarnation)
            return Verdict(SimulationEvent.FAILED, f"The simulation gets no cgroup: {error}", ErrorType.LOADING)
        try:
            write_snapshot(self.folder, self._archiving.cloned)
        except OSError as error:
            self._site.placement.dismiss(self.record.incarnation)
            return Verdict(SimulationEvent.FAILED, f"The simulation gets no room: {error}", ErrorType.LOADING)
        self._stand_in.server_is_there()
        return self._verdict(self._run_server())

    def _get_credentials(self) -> str | None:
        """Get those at the broker, where simulations have some of their own. Returns why there are none."""
        try:
            if self._site.credentials is not None:
                self._credentials = self._site.credentials.grant(self.simulation_id, self.incarnation)
        except BusUnavailable as fault:
            return str(fault)
        return None

    def _run_server(self) -> Ended:
        """Have a server started, and wait for its end; started again when the order went down with a spawner."""
        for _ in range(ORDERS):
            try:
                if self._credentials is not None:
                    self.folder.write_credentials(self._credentials)
                self._site.placement.place(self._site.order_of(self.record, self.folder, self._limits))
            except (NRPError, OSError) as error:
                return Ended(str(error))
            ended = self._watch()
            if not ended.with_spawner or self.pid is not None or self.record.intention is not None:
                break
            processes.end_all(lambda: processes.marked({self.record.incarnation}))
        return ended

    def _clone(self) -> None:
        launch = self.record.launch
        tracing.enter(launch.context)
        try:
            storage = self._site.storage_for(launch.sealed_token)
            storage.clone(launch.experiment_id, self.folder.experiment, self._site.clone_cache)
            self._archiving.cloned = snapshot(self.folder.experiment)
        except Exception as error:
            if not isinstance(error, NRPError | OSError):
                log.exception("Simulation %d cannot be cloned", self.simulation_id)
            self._news.put(Cloned(error))
        else:
            self._note_phase("clone")
            self._news.put(Cloned())

    def _take_over(self) -> Verdict:
        while True:
            match self._next_news():
                case Spawned() | Waits():
                    log.info("Simulation %d runs on", self.simulation_id)
                    if self.record.intention is not None:
                        self._end_server(self.record.intention)
                    return self._verdict(self._watch())
                case Ended() as ended:
                    return self._verdict(ended)

    def _watch(self) -> Ended:
        """Wait for the end of the server; see to it that it comes when it has to."""
        started_at = time.monotonic()
        while True:
            news = self._next_news()
            match news:
                case Ended():
                    return news
                case Waits():
                    started_at = math.inf
                case Spawned():
                    started_at = time.monotonic()
            if time.monotonic() >= self._kill_at:
                self._kill_at = math.inf
                self._site.placement.kill(self.record.incarnation)
            if isinstance(news, Swollen) and self.record.intention is None:
                self._fail_for(news.excess)
            if self.record.intention is None:
                journal = self.read_journal()
                if (fault := self._find_fault(time.monotonic() - started_at)) is not None:
                    self._intend(Intention(event=SimulationEvent.FAILED, reason=fault))
                elif (excess := self._limits.excess(journal, self.pid, self._spawner)) is not None:
                    self._fail_for(excess)
                elif (idle := self._culling.verdict(journal)) is not None:
                    self._have_stopped(StopAsked(idle))

    def _next_news(self) -> News | None:
        """What is new, taken note of; None when a while has passed without anything."""
        kill_in = self._kill_at - time.monotonic()
        try:
            news = self._news.get(timeout=min(CHECK_INTERVAL_S, kill_in) if kill_in > 0 else CHECK_INTERVAL_S)
        except queue.Empty:
            return None
        match news:
            case StopAsked():
                self._have_stopped(news)
            case Overruled(by=message):
                self._final_word.note(message)
                self._have_stopped(StopAsked(message.reason))
        return news

    def _have_stopped(self, asked: StopAsked) -> None:
        if self.record.intention is None:
            self._intend(Intention(event=SimulationEvent.STOPPED, reason=asked.reason))

    def _intend(self, intention: Intention) -> None:
        """End the server; the next launcher does so, too, when this one dies over it."""
        self.record.intention = intention
        self.record.keep(self.folder)  # first: what was ended and is not noted down would neither be stopped nor run
        if self._stand_in.has_server:
            self._end_server(intention)

    def _end_server(self, intention: Intention) -> None:
        """Have the server end: in order, which it may do already or be cut off from the bus, or at once."""
        if intention.event is SimulationEvent.STOPPED or intention.may_wait:
            self._kill_at = time.monotonic() + self._site.settings.stop_grace_s
            self._site.placement.stop(self.record.incarnation)
        else:
            self._site.placement.kill(self.record.incarnation)

    def _find_fault(self, age_s: float) -> str | None:
        """Why the simulation has to be ended, None when it has not."""
        settings = self._site.settings
        if not self.folder.path.is_dir():
            return FOLDER_GONE
        if size_of_logs(self.folder) > settings.log_limit_mb * MEGABYTE:
            return f"The simulation wrote more than {settings.log_limit_mb} MB to its logs (limit NRP_LOG_LIMIT_MB)"
        self._is_ready = self._is_ready or self.read_journal().seq > 0
        if not self._is_ready and age_s > settings.initialise_timeout_s:
            return f"The simulation was not ready after {settings.initialise_timeout_s:g} s"
        return None

    def _fail_for(self, excess: Excess) -> None:
        if not excess.may_wait:
            self._limits.kill(self.pid, self._spawner)
        self._note_excess(excess)
        self._intend(Intention(event=SimulationEvent.FAILED, reason=excess.reason, may_wait=excess.may_wait))

    def _note_excess(self, excess: Excess) -> None:
        log.warning("%s: simulation %d", excess.reason, self.simulation_id)
        if excess.of is Limited.DISK:
            self._archiving.may_leave_out_results = True

    def _verdict(self, ended: Ended) -> Verdict:
        journal, is_own_end = self.read_journal(), not (ended.by_placement or ended.with_spawner)
        if self.record.intention is None and not self.folder.path.is_dir():
            reason = f"{FOLDER_GONE}; {ended.how}"
            self.record.intention = Intention(event=SimulationEvent.FAILED, reason=reason)
        if self.folder.read_journal().seq < journal.seq:
            self._hear_of_a_stop()
        if self.record.intention is None and is_own_end and not journal.stopping:
            excess = self._limits.excess_at_the_end()
            if excess is not None:  # it did not live to be ended for it
                self._note_excess(excess)
                reason = f"{excess.reason}; {journal.error or ended.how}"
                self.record.intention = Intention(event=SimulationEvent.FAILED, reason=reason)
        return verdict_on(self.record, self.folder, ended.how, by_placement=ended.by_placement)

    def _hear_of_a_stop(self) -> None:
        """Leave a stop the time to arrive that a server may have ended for: its journal, which would tell, is lost."""
        heard_by = time.monotonic() + HEARD_WITHIN_S
        while self.record.intention is None and time.monotonic() < heard_by:
            self._next_news()

    # -- the end -------------------------------------------------------------------------------------------------------

    def _end(self, verdict: Verdict) -> None:
        """Leave nothing running, store what is to be kept, speak the final word, free the folder."""
        self._limits.release()
        self._site.placement.end_processes(self.record.incarnation, self.folder, self.pid, self._spawner)
        if self._site.credentials is not None:
            self._site.credentials.revoke(self.simulation_id, self.incarnation)
        self.pid = None
        self.is_placed = False
        self.is_running = False
        self._stand_in.server_is_dead(was_stopped=verdict.event is SimulationEvent.STOPPED)
        self._queue_notice.take_back()
        self._site.metrics.end(self, verdict.event)
        self._site.freed()
        stored = self._archiving.store(STORED_WITHIN_S, self._final_word.add_archives)
        if self.is_leftover:
            self._hear_earlier_words()
        journal = self.read_journal()
        self._final_word.note_own(verdict, journal, stored)
        if self._archiving.is_safe:
            remove_folder(self.folder.experiment)
        self._final_word.speak(verdict, journal, stored, is_leftover=self.is_leftover)
        self._stand_in.all_is_said()
        self._archiving.wait_until_safe()
        self._final_word.await_delivery()
        self._site.placement.forget(self.record.incarnation)
        remove_folder(self.folder.path)
        self._site.bus.unsubscribe(self._topics.command(self.simulation_id))
        self._site.bus.unsubscribe(self._topics.lifecycle(self.simulation_id))
        self.over_since = time.monotonic()
        if self._cloning is not None:  # it cannot be interrupted, and may still write something
            self._cloning.join()
            remove_folder(self.folder.path)

    def _hear_earlier_words(self) -> None:
        """Take note of a verdict that a gateway passed while there was no launcher: that one stands."""
        self._final_word.await_broker()
        self._has_heard.wait(HEARD_WITHIN_S)
        while not self._news.empty():
            self._next_news()
