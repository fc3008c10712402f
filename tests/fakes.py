"""Stand-ins for the other side: a launcher with its simulation servers, and a Storage Server.

The launcher speaks the real protocol over a real broker, but runs nothing. It misbehaves when told to.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from paho.mqtt.client import topic_matches_sub

from nrp_common.bus import BrokerAddress, Bus, Responder, Will
from nrp_common.errors import InvalidTransition
from nrp_common.lifecycle import SOURCES, SimulationEvent, SimulationState
from nrp_common.messages import (
    Archives,
    Collect,
    Command,
    CommandEvent,
    FailedStatus,
    Launch,
    LauncherPresence,
    LifecycleMessage,
    Message,
    Refusal,
    Reply,
    ServerPresence,
    Status,
)
from nrp_common.topics import Topics

# -- the bus ---------------------------------------------------------------------------------------------------------


class FakeBus:
    """A bus with nobody else on it: what is said is noted, what is heard is what a test says.

    Attributes:
        is_connected: whether the broker is there.
        retained: what a broker would keep, by topic.
        said: everything, by topic.
    """

    def __init__(self) -> None:
        self.is_connected = True
        self.retained: dict[str, bytes] = {}
        self.said: dict[str, list[bytes]] = {}
        self._handlers: list[tuple[str, Callable[[str, bytes], None]]] = []

    def subscribe(self, topic_filter: str, handler: Callable[[str, bytes], None], *, qos: int = 1) -> None:
        self._handlers.append((topic_filter, handler))

    def publish(self, topic: str, payload: Message | bytes, *, retain: bool = False, **_: Any) -> None:
        data = payload if isinstance(payload, bytes) else payload.to_json()
        self.said.setdefault(topic, []).append(data)
        if retain and data:
            self.retained[topic] = data
        elif retain:
            self.retained.pop(topic, None)

    def unsubscribe(self, topic_filter: str) -> None:
        self._handlers = [each for each in self._handlers if each[0] != topic_filter]

    def hear(self, topic: str, payload: Message | bytes) -> None:
        """Have the subscribers hear a message."""
        data = payload if isinstance(payload, bytes) else payload.to_json()
        for topic_filter, handler in self._handlers:
            if topic_matches_sub(topic_filter, topic):
                handler(topic, data)


# -- the launcher and its simulation servers -------------------------------------------------------------------------


def paused(simulation: FakeSimulation) -> None:
    """What becomes of a launch: the simulation gets ready."""
    simulation.report(SimulationEvent.INITIALIZED)


def created(_simulation: FakeSimulation) -> None:
    """What becomes of a launch: the simulation takes its time to get ready."""


def failed(simulation: FakeSimulation) -> None:
    """What becomes of a launch: the experiment cannot run."""
    simulation.end(SimulationState.FAILED, "There is no experiment 'demo'")


def obey(simulation: FakeSimulation, command: Command, responder: Responder) -> None:
    """What becomes of a command: it is carried out."""
    simulation.carry_out(command, responder)


def keep_silent(_simulation: FakeSimulation, _command: Command, _responder: Responder) -> None:
    """What becomes of a command: it is not answered at all."""


def accept_only(_simulation: FakeSimulation, _command: Command, responder: Responder) -> None:
    """What becomes of a command: it is accepted and never carried out."""
    responder.accept()


def refuse(refusal: Refusal, error: str) -> Callable[[FakeSimulation, Command, Responder], None]:
    """What becomes of a command: it is refused."""
    return lambda _simulation, _command, responder: responder.reply(Reply(error=error, refusal=refusal))


@dataclass
class FakeSimulation:
    """One simulation that a fake launcher took: what its server and the launcher say of it."""

    launch: Launch
    bus: Bus
    topics: Topics
    launcher_name: str
    incarnation: str = field(default_factory=lambda: uuid.uuid4().hex)
    state: SimulationState = SimulationState.CREATED
    seq: int = 0
    commands: list[Command] = field(default_factory=list)
    on_command: Callable[[FakeSimulation, Command, Responder], None] = obey

    @property
    def id(self) -> int:
        return self.launch.simulation_id

    def carry_out(self, command: Command, responder: Responder) -> None:
        event = command.event
        if event is CommandEvent.STOPPED:
            responder.reply(self._reached())
            self.end(SimulationState.STOPPED)
            return
        if event is CommandEvent.STEP:
            responder.accept()
            self.report(SimulationEvent.STARTED)
            self.report(SimulationEvent.PAUSED)
        elif self.state in SOURCES[asked := SimulationEvent(event.value)]:
            self.report(asked)
        elif self.state is not asked.target:
            refusal = InvalidTransition(self.state, asked.target)
            responder.reply(Reply(error=str(refusal), refusal=Refusal.INVALID))
            return
        responder.reply(self._reached())

    def report(self, event: SimulationEvent) -> LifecycleMessage:
        """As the simulation server does it."""
        self.seq += 1
        message = LifecycleMessage(
            source_node=f"nrp_simulation_server_{self.id}",
            source_state=self.state,
            event=event,
            target_state=event.target,
            incarnation=self.incarnation,
            seq=self.seq,
        )
        self.state = event.target
        self.say(message)
        self.bus.publish(self.topics.status(self.id), Status(state=self.state), retain=True)
        return message

    def end(
        self,
        state: SimulationState,
        reason: str | None = None,
        *,
        logs: str | None = None,
        results: str | None = None,
    ) -> LifecycleMessage:
        """The launcher's last word."""
        self.seq += 1
        message = LifecycleMessage(
            source_node=f"nrp_launcher_{self.launcher_name}",
            source_state=self.state,
            event=SimulationEvent(state.value),
            target_state=state,
            incarnation=self.incarnation,
            seq=self.seq,
            reason=reason,
            logs=logs,
            results=results,
        )
        self.state = state
        status = Status(state=state) if reason is None else FailedStatus(state=state, error=reason)
        self.bus.publish(self.topics.status(self.id), status, retain=True)
        self.say(message)
        return message

    def say(self, message: LifecycleMessage) -> None:
        """Put a lifecycle message onto the bus, whatever it says."""
        self.bus.publish(self.topics.lifecycle(self.id), message, qos=1, retain=True)

    def say_times(self, status: Status) -> None:
        self.bus.publish(self.topics.status(self.id), status, retain=True)

    def store_archives(self, archives: Archives) -> None:
        self.bus.publish(self.topics.archives(self.id), archives, qos=1, retain=True)

    def appear(self) -> None:
        """The server connects."""
        self.bus.publish(
            self.topics.server_presence(self.incarnation),
            ServerPresence(online=True, simulation_id=self.id),
            qos=1,
            retain=True,
        )

    def vanish(self) -> None:
        """The server's last will."""
        self.bus.publish(
            self.topics.server_presence(self.incarnation),
            ServerPresence(online=False, simulation_id=self.id),
            qos=1,
            retain=True,
        )

    def _reached(self) -> Reply:
        return Reply(state=self.state, incarnation=self.incarnation, seq=self.seq)


class FakeLauncher:
    """A launcher as gateways see it.

    Attributes:
        simulations: that it took, by id.
        launches: all that it was asked, also those that it refused.
        on_launch: what becomes of a simulation once it is taken.
        refusal: what to answer to a launch in place of taking it.
        is_silent: whether launches are not answered at all.
        answers_late: whether launches are answered only when it is too late to take them.
        archive: what to answer when asked for logs or results.
    """

    def __init__(
        self,
        broker: BrokerAddress,
        topics: Topics,
        *,
        name: str = "fake",
        capacity: int = 50,
        labels: tuple[str, ...] = (),
        free_cores: float | None = None,
        free_gpus: int | None = None,
    ) -> None:
        self.name = name
        self.capacity = capacity
        self.labels = list(labels)
        self.free_cores = free_cores
        self.free_gpus = free_gpus
        self.topics = topics
        self.simulations: dict[int, FakeSimulation] = {}
        self.instance = uuid.uuid4().hex
        self.launches: list[Launch] = []
        self._presence_topic = topics.launcher_presence(name)
        absence = LauncherPresence(online=False).to_json()
        self.bus = Bus(broker, f"launcher_{name}", will=Will(self._presence_topic, absence))
        self.bus.serve(topics.launch(name), Launch, self._take)
        self.bus.serve(topics.collect(name), Collect, self._collect)
        self.behave()
        self.bus.start()
        self.bus.wait_until_connected(5)
        self.announce()

    def behave(self) -> None:
        """From now on do what launchers should."""
        self.on_launch: Callable[[FakeSimulation], None] = paused
        self.refusal: Reply | None = None
        self.answers_late = False
        self.is_silent = False
        self.loses_answers = False
        self.archive = Reply(error="There are no logs", refusal=Refusal.UNKNOWN)

    @property
    def running(self) -> int:
        return sum(not each.state.is_final for each in self.simulations.values())

    def announce(self) -> None:
        """Say what there is room for."""
        presence = LauncherPresence(
            online=True,
            capacity=self.capacity,
            running=self.running,
            labels=self.labels,
            free_cores=self.free_cores,
            free_gpus=self.free_gpus,
            instance=self.instance,
        )
        self.bus.retain(self._presence_topic, presence)

    def leave(self) -> None:
        """Go away in order; the simulations' servers stay."""
        self.bus.forget(self._presence_topic)
        self.bus.close()

    def end_all(self) -> None:
        """Stop all simulations."""
        for each in list(self.simulations.values()):  # the bus's thread may add one
            if not each.state.is_final:
                each.end(SimulationState.STOPPED)

    def _take(self, launch: Launch, responder: Responder) -> None:
        self.launches.append(launch)
        if self.is_silent:
            return
        if self.refusal is None and self.running >= self.capacity:
            responder.reply(Reply(error=f"all {self.capacity} places are taken", refusal=Refusal.FULL))
            return
        if self.refusal is not None:
            responder.reply(self.refusal)
            return
        simulation = FakeSimulation(launch, self.bus, self.topics, self.name)
        self.simulations[simulation.id] = simulation
        self.bus.serve(
            self.topics.command(simulation.id),
            Command,
            lambda command, command_responder: self._command(simulation, command, command_responder),
        )
        taken = Reply(state=SimulationState.CREATED, incarnation=simulation.incarnation)
        if self.answers_late:
            threading.Timer(launch.deadline - time.time() + 0.1, responder.reply, (taken,)).start()
        elif not self.loses_answers:
            responder.reply(taken)
        self.announce()
        simulation.appear()
        self.on_launch(simulation)

    def _command(self, simulation: FakeSimulation, command: Command, responder: Responder) -> None:
        simulation.commands.append(command)
        simulation.on_command(simulation, command, responder)
        if simulation.state.is_final:
            self.announce()

    def _collect(self, _request: Collect, responder: Responder) -> None:
        responder.reply(self.archive)


# -- the Storage Server ----------------------------------------------------------------------------------------------


class FakeStorageServer:
    """The part of a Storage Server that a gateway asks: who callers are, what they may see, and files.

    Attributes:
        users: ids by token.
        viewers: by experiment, who may see it.
        files: contents by `experiment/path`.
        failure: a status to answer everything with, None for none.
        asked: how often each path was asked for.
    """

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.viewers: dict[str, set[str]] = {}
        self.files: dict[str, bytes] = {}
        self.failure: int | None = None
        self.asked: Counter[str] = Counter()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler_for(self))
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, path: str, token: str) -> tuple[int, bytes]:
        """Status and body of a GET."""
        self.asked[path] += 1
        if self.failure is not None:
            return self.failure, b"{}"
        user = self.users.get(token)
        if user is None:
            return 477, b'{"mode": "oidc", "url": "", "clientId": ""}'
        if path == "/identity/me":
            return 200, _json({"id": user, "displayName": user.title()})
        name = path.removeprefix("/storage/")
        if user not in self.viewers.get(name.partition("/")[0], set()):
            return 403, b"{}"
        if "/" not in name:
            return 200, b"[]"
        return (200, self.files[name]) if name in self.files else (204, b"")


def _handler_for(storage: FakeStorageServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            token = self.headers.get("Authorization", "").removeprefix("Bearer ")
            status, body = storage.answer(unquote(urlsplit(self.path).path), token)
            self.send_response(status)
            if status != 204:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def write_archive(experiments: Path, experiment: str, name: str, content: bytes) -> None:
    """Put an archive where a gateway's own storage has it."""
    folder = experiments / experiment
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
