"""The process that runs one simulation.

User code (engines, functions, the main script) runs in the main thread: simulators, signal handlers, sqlite and
asyncio expect that, and what does not return can be interrupted there by a signal. Commands arrive in the bus's thread;
they move the lifecycle and open, close or end the gate that each step passes.

`run` is for a process that was forked for the purpose. `python -m nrp_simserver.server.simulation_server SETUP.json`
does the same from a `ServerSetup` in a file, for a debugger.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import NoReturn

from nrp_common.bus import Bus, Responder, Will
from nrp_common.errors import BusUnavailable, ExperimentError, InvalidTransition, SimulationFinal
from nrp_common.lifecycle import SimulationEvent, SimulationState
from nrp_common.messages import (
    Command,
    CommandEvent,
    LifecycleMessage,
    Refusal,
    Reply,
    RuntimeErrorReport,
    ServerPresence,
)
from nrp_common.topics import Topics
from nrp_simserver import processes
from nrp_simserver.cores import NrpCore
from nrp_simserver.cores.configuration import load_configuration, real_time_factor_override
from nrp_simserver.cores.selection import Diversion, create_core
from nrp_simserver.server import surroundings
from nrp_simserver.server.broker_door import BrokerDoor
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper
from nrp_simserver.server.data_relay import DataRelay
from nrp_simserver.server.error_report import error_report, print_traceback
from nrp_simserver.server.external_processes import ExternalProcesses
from nrp_simserver.server.gate import Gate, SimulationEnding, SimulationReset, SimulationStopped
from nrp_simserver.server.interruption import Interruption
from nrp_simserver.server.lifecycle import SimulationServerLifecycle
from nrp_simserver.server.mqtt_nodes import connector
from nrp_simserver.server.notifier import MQTTNotifier
from nrp_simserver.server.script_runner import MainScript, NRPScriptRunner
from nrp_simserver.simulation_folder import BusAccess, ServerSetup, SimulationFolder

log = logging.getLogger(__name__)

INITIALIZING = "Initializing"
SHUTTING_DOWN = "Shutting down"

CONNECTING_S = 1.0
"""How long initialising waits for the bus. It goes on without, but then nobody sees its progress."""

BROKER_AWAY_S = 60.0
"""How long an initialised simulation waits for a broker before it fails: nobody could ever start it."""

SAY_AGAIN_S = 5.0
"""Between two log lines about a broker that is away."""

SHUTDOWN_S = 20.0
"""How long engines, external processes and exit handlers have to end; then the kernel ends the process."""

SENDING_S = 0.01
"""How long a script waits to start until the answer is sent that it does, which takes longer once it executes."""

LINGER_S = 0.5
"""How long the last messages have to be delivered."""

CANNOT_BE_RESET = "The main script cannot be reset: it catches the exception that ends it, and goes on"


class SimulationServer:
    """One simulation, from its initialisation to the end of its process.

    The main thread initialises, runs the script, and shuts down (`run`). The bus's thread carries out commands. The
    status thread publishes at the status rate. They meet in the lifecycle, under its lock, and at the gate.

    Owns every state but the final ones: when the simulation was stopped, or failed, it says so in its journal and ends;
    the launcher then has the final word.

    Args:
        setup: what to run.
        bus: of this server: see `new_bus`; started.
    """

    def __init__(self, setup: ServerSetup, bus: Bus) -> None:
        self._setup = setup
        self._folder = SimulationFolder(setup.folder, setup.simulation_id)
        self._topics = Topics(setup.mqtt_prefix)
        self._bus = bus
        self._notifier = MQTTNotifier(self._bus, self._topics, setup.simulation_id, setup.incarnation)
        # The relay publishes in the bus's thread, whose commands must not wait.
        relayed = partial(self._notifier.publish_data, patient=False)
        self._relay = DataRelay(self._bus, self._topics, setup.simulation_id, relayed)
        self._door: BrokerDoor | None = None
        self._clock = SimulationClock()
        self._gate = Gate()
        self._lifecycle = SimulationServerLifecycle(self._folder, self._clock, self._notifier, self._answer_waiting)
        self._interruption = Interruption(self._gate, self._end_on_top_of_the_script)
        self._external_processes = ExternalProcesses()
        self._core: NrpCore | None = None
        self._nrp: NRPCoreWrapper | None = None
        self._waiting: list[Responder] = []  # of commands that are answered when their state is reached
        self._is_over = threading.Event()

    # -- the main thread -----------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the simulation. Returns the process's exit status: 0 stopped, 1 failed."""
        os.register_at_fork(after_in_child=self._be_no_simulation)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop())
        self._speak()
        try:
            runner = self._initialize()
            while True:
                self._run_until_reset(runner)
        except SimulationStopped:
            return self._end(None)
        except BaseException as error:  # noqa: BLE001  whatever user code raised has ended the simulation
            if self._gate.ending is SimulationStopped:  # then it matters no more, but is worth knowing
                print_traceback(error, self._folder.experiment)
                return self._end(None)
            return self._end(error)

    def _speak(self) -> None:
        self._notifier.appear()
        self._bus.serve(self._topics.command(self._setup.simulation_id), Command, self._take_command)
        self._bus.subscribe(self._topics.lifecycle(self._setup.simulation_id), self._hear_of_transition)
        threading.Thread(target=self._publish_status_regularly, name="status", daemon=True).start()

    def _initialize(self) -> NRPScriptRunner:
        setup, experiment = self._setup, self._folder.experiment
        self._lifecycle.write_journal()
        connects_late = setup.credentials_in_folder  # and is left the time to
        if not connects_late:
            self._await_connection()
        plain_broker = setup.nrpcoresim.broker or str(self._bus.broker)
        with self._interruption.of_user_code():
            self._notifier.progress(INITIALIZING, "Loading the experiment", index=0, count=3)
            overrides = real_time_factor_override(setup.real_time_factor)
            configuration = load_configuration(experiment, setup.configuration, overrides).of_simulation(
                setup.simulation_id, setup.mqtt_prefix, plain_broker
            )
            script = MainScript.load(experiment, setup.main_script)
            self._notifier.progress(INITIALIZING, "Starting external processes", index=1, count=3)
            self._external_processes.start(configuration.external_processes, experiment)
            if connects_late:
                self._await_connection()
            self._notifier.progress(INITIALIZING, "Starting engines", index=2, count=3)
            self._core = create_core(
                configuration,
                experiment,
                setup.core,
                self._notifier.publish_data,
                config_file=setup.configuration,
                engine_processes=setup.engine_processes,
                nrpcoresim=setup.nrpcoresim,
                divert=self._divert,
                connect=connector(self._bus.broker, {plain_broker}),
                rest=self._gate.hold,
            )
            self._core.initialize()
            self._external_processes.check()
        self._nrp = NRPCoreWrapper(
            self._core,
            self._gate,
            self._clock,
            self._report_steps_taken,
            real_time_factor=configuration.real_time_factor,
        )
        runner = NRPScriptRunner(script, self._nrp, self._setup.simulation_id)
        self._await_broker()
        with self._lifecycle.lock:
            if self._gate.ending is None:
                self._notifier.progress_done(INITIALIZING)
                self._lifecycle.fire(SimulationEvent.INITIALIZED)
                log.info("Ready to start %s", self._setup.main_script)
        return runner

    def _await_connection(self) -> None:
        try:
            self._bus.wait_until_connected(CONNECTING_S)
        except BusUnavailable as error:
            log.warning("%s. Initialising meanwhile", error)
        self._lifecycle.publish_status()

    def _divert(self) -> Diversion:
        """Where the original program publishes what this process passes on; it gets onto no secured broker itself."""
        prefix, broker = self._relay.listen(), self._bus.broker
        if self._setup.nrpcoresim.broker is None and (broker.tls or broker.username is not None):
            self._door = BrokerDoor(broker)
        return Diversion(prefix, None if self._door is None else self._door.address)

    def _await_broker(self) -> None:
        deadline = time.monotonic() + BROKER_AWAY_S
        while not self._bus.is_connected and self._gate.ending is None:
            try:
                self._bus.wait_until_connected(SAY_AGAIN_S)
            except BusUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("%s. Trying again", error)

    def _run_until_reset(self, runner: NRPScriptRunner) -> None:
        try:
            self._gate.wait()
            with self._interruption.of_user_code():
                runner.run()
            self._complete()
            self._gate.wait()  # from here on for its end only
        except BaseException as error:
            if self._gate.ending is not SimulationReset:
                raise
            if not isinstance(error, SimulationEnding):  # raised by the script on its way out
                print_traceback(error, self._folder.experiment)
        self._reset()

    def _complete(self) -> None:
        while True:
            self._gate.wait()  # a script that ended while paused completes when it is started again
            with self._lifecycle.lock:
                if self._lifecycle.current is SimulationState.STARTED and self._gate.ending is None:
                    self._gate.close()
                    self._lifecycle.fire(SimulationEvent.COMPLETED)
                    return

    def _reset(self) -> None:
        assert self._core is not None
        assert self._nrp is not None
        with self._interruption.of_user_code():
            self._core.reset()
        with self._lifecycle.lock:
            if self._gate.ending is not SimulationReset:
                return
            self._nrp.failure = None
            self._clock.reset()
            self._gate.renew()
            self._lifecycle.fire(SimulationEvent.RESET)

    def _end(self, error: BaseException | None) -> int:
        """Shut everything down and say goodbye: after a stop, or because of `error`. Returns the exit status."""
        self._is_over.set()
        report = None if error is None else self._tell(error)
        reason = None if report is None else report.msg
        with self._lifecycle.lock:
            self._gate.end(SimulationStopped)
            self._clock.pause()
            self._lifecycle.keep_journal(stopping=error is None, error=reason)
            outcome = f"The simulation failed: {reason}" if reason else "The simulation was stopped"
            self._answer_waiting(Reply(error=outcome, refusal=Refusal.FAILED))
        surroundings.leave_at_latest_in(SHUTDOWN_S)
        self._notifier.progress(SHUTTING_DOWN)
        if self._core is not None:
            try:
                self._core.shutdown()
            except BaseException as failure:  # noqa: BLE001  an engine may call sys.exit()
                self._tell(failure)
        self._relay.close()
        if self._door is not None:
            self._door.close()
        self._external_processes.end()
        self._notifier.progress_done(SHUTTING_DOWN)
        self._notifier.disappear()
        if report is not None and not self._bus.is_connected:
            self._lifecycle.keep_journal(error=reason, unheard=report)
        self._bus.close(linger_s=LINGER_S)
        return 1 if error is not None else 0

    def _tell(self, error: BaseException) -> RuntimeErrorReport:
        """Write an error to the log and publish it; returns what was published."""
        print_traceback(error, self._folder.experiment)
        report = error_report(
            error,
            experiment=self._folder.experiment,
            main_script=self._setup.main_script,
            simulation_id=self._setup.simulation_id,
            while_loading=self._lifecycle.current is SimulationState.CREATED,
        )
        self._notifier.runtime_error(report)
        return report

    def _end_on_top_of_the_script(self) -> NoReturn:
        is_reset = self._gate.ending is SimulationReset
        processes.leave(self._end(ExperimentError(CANNOT_BE_RESET) if is_reset else None))

    def _be_no_simulation(self) -> None:
        """In a process that the script forked: leave bus, journal and commands to the parent."""
        self._gate.disown()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)

    # -- commands, in the bus's thread ---------------------------------------------------------------------------------

    def _take_command(self, command: Command, responder: Responder) -> None:
        with self._lifecycle.lock:
            if self._lifecycle.changed_at > (command.unless_changed_since or math.inf):
                log.info("Passed over the command '%s', which was answered before the last one", command.event)
                return
            try:
                self._carry_out(command, responder)
                log.info("Took the command '%s'", command.event)
            except (InvalidTransition, SimulationFinal) as refusal:
                log.info("Refused the command '%s': %s", command.event, refusal)
                responder.reply(Reply(error=str(refusal), refusal=Refusal.INVALID))

    def _carry_out(self, command: Command, responder: Responder) -> None:
        if command.event is CommandEvent.STOPPED:
            self._stop()
            responder.reply(self._state_reached())
            return
        self._refuse_while_ending(command.event)
        match command.event:
            case CommandEvent.STARTED:
                self._reach(SimulationEvent.STARTED, responder)
                self._bus.wait_until_sent(SENDING_S)
                self._gate.open()
            case CommandEvent.PAUSED:
                self._gate.close()
                self._reach(SimulationEvent.PAUSED, responder)
            case CommandEvent.STEP:
                if self._lifecycle.current is not SimulationState.PAUSED:
                    raise InvalidTransition(self._lifecycle.state, command.event)
                self._lifecycle.fire(SimulationEvent.STARTED)
                self._await_state(responder)
                self._gate.open_for(command.iterations)
            case CommandEvent.RESET:
                self._refuse_unless_allowed(SimulationEvent.RESET)
                self._await_state(responder)
                self._gate.end(SimulationReset)
                self._interruption.insist()

    def _refuse_while_ending(self, event: CommandEvent) -> None:
        if self._gate.ending is SimulationStopped:
            raise SimulationFinal
        if self._gate.ending is SimulationReset and event is not CommandEvent.RESET:
            raise InvalidTransition(CommandEvent.RESET, event)

    def _refuse_unless_allowed(self, event: SimulationEvent) -> None:
        if not self._lifecycle.allows(event):
            raise InvalidTransition(self._lifecycle.state, event.target)

    def _reach(self, event: SimulationEvent, responder: Responder) -> None:
        self._refuse_unless_allowed(event)
        self._waiting.append(responder)
        if not self._lifecycle.fire(event):  # it is there already
            self._answer_waiting()

    def _await_state(self, responder: Responder) -> None:
        responder.accept()
        self._waiting.append(responder)

    def _answer_waiting(self, reply: Reply | None = None) -> None:
        for responder in self._waiting:
            responder.reply(reply or self._state_reached())
        self._waiting.clear()

    def _state_reached(self) -> Reply:
        return Reply(state=self._lifecycle.current, incarnation=self._setup.incarnation, seq=self._lifecycle.seq)

    def _stop(self) -> None:
        self._gate.end(SimulationStopped)
        self._interruption.insist()

    def _hear_of_transition(self, _topic: str, payload: bytes) -> None:
        message = LifecycleMessage.from_json(payload)
        if (
            message is not None
            and message.target_state.is_final
            and message.incarnation in ("", self._setup.incarnation)
            and not self._is_over.is_set()
        ):
            log.error("%s says that this simulation %s (%s)", message.source_node, message.event, message.reason or "-")
            self._notifier.yield_lifecycle()
            self._lifecycle.verdict = message
            self._stop()

    # -- between the threads -------------------------------------------------------------------------------------------

    def _report_steps_taken(self) -> None:
        """The steps of a step command are taken: paused again, unless another command came in between."""
        with self._lifecycle.lock:
            if self._gate.is_open or self._gate.ending is not None:
                return
            self._lifecycle.fire(SimulationEvent.PAUSED)

    def _publish_status_regularly(self) -> None:
        while not self._is_over.wait(self._setup.status_interval_s):
            with self._lifecycle.lock:
                if not self._is_over.is_set():
                    self._lifecycle.keep_journal()  # should this process be killed, its times are not lost
                    self._lifecycle.publish_status()


def new_bus(access: BusAccess, incarnation: str) -> Bus:
    """The bus of the server of an incarnation, whether or not it has a simulation yet; not connected."""
    presence = Topics(access.mqtt_prefix).server_presence(incarnation)
    bus = Bus(access.broker, "simulation_server", will=Will(presence, ServerPresence(online=False).to_json()))
    bus.retain(presence, ServerPresence(online=True))
    return bus


def run(setup: ServerSetup, bus: Bus | None = None, *, is_on_bus: bool = False) -> NoReturn:
    """Run one simulation in this process and leave it: status 0 when it was stopped, 1 when it failed.

    Args:
        setup: what to run.
        bus: of this server, None when it has none yet.
        is_on_bus: whether it is started.
    """
    try:
        if setup.credentials_in_folder:
            setup = setup.with_credentials()
        bus = bus or new_bus(setup, setup.incarnation)
        if not is_on_bus:  # it connects while this process becomes the simulation's
            bus.use_credentials(setup.broker_username, setup.broker_password)
            bus.start()
        surroundings.enter(setup)
        status = SimulationServer(setup, bus).run()
    except BaseException:  # noqa: BLE001  printed, and told to the launcher by the status
        traceback.print_exc()
        status = 1
    processes.leave(status)


if __name__ == "__main__":
    run(ServerSetup.model_validate_json(Path(sys.argv[1]).read_bytes()))
