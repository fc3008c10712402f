"""A stand-in for the program NRPCoreSim: speaks what it speaks, as a process of its own, and misbehaves when told to.

Its engines do nothing, but are processes. What it was told it writes down; `stand_in.json` in the experiment's folder
says how it behaves.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent import futures
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from nrp_shims.nrp_protobuf import dump_pb2, nrp_core_pb2

pb: Any = nrp_core_pb2
dump: Any = dump_pb2

BEHAVIOUR = "stand_in.json"
CALLS = "stand_in_calls.json"
ENGINES = "stand_in_engines.json"


ALLOWED_IN = {
    "initialize": ["Created"],
    "runLoop": ["Initialized", "Stopped"],
    "runUntilTimeout": ["Initialized", "Stopped"],
    "stopLoop": ["Created", "Initialized", "Running", "Stopped", "Failed"],
    "reset": ["Initialized", "Stopped"],
    "shutdown": ["Created", "Initialized", "Stopped", "Failed"],
}
"""The states that allow a call."""


@dataclass
class Behaviour:
    """How the stand-in behaves; well, if nothing is said.

    Attributes:
        start_s: how long it takes until it listens.
        starts_in_vain: how many times its address is taken when it starts.
        exits_at_start: the status that it ends with instead of listening.
        fails_to_initialize: what goes wrong in `initialize`.
        refuses: a call that it does not allow.
        step_s: how long a step takes.
        hangs_at: the step that never ends.
        done_at: the step at which the status function reports done.
        fails_at: the step at which the simulation fails.
        failure: what goes wrong then.
        dies_at: the step in which it is killed.
        says: the state that it is in after steps, by its own account; the right one if it is None.
        wrong: what is wrong with its trajectories: "places", "json", "type" or "bytes".
        wrong_from: the step of the first one with which something is wrong.
        echoes: whether trajectories hold the messages that were handed in, too.
        stays: whether it neither shuts down nor ends when asked to.
        bare_engines: whether its engines do not inherit its environment.
        leaves_engines: whether it shuts down without ending them.
        is_loud: whether it notes down each call.
    """

    start_s: float = 0.0
    starts_in_vain: int = 0
    exits_at_start: int | None = None
    fails_to_initialize: str = ""
    refuses: str = ""
    step_s: float = 0.0
    hangs_at: int = -1
    done_at: int = -1
    fails_at: int = -1
    failure: str = "engine 'robot' fell over"
    dies_at: int = -1
    says: str | None = None
    wrong: str = ""
    wrong_from: int = 0
    echoes: bool = False
    stays: bool = False
    bare_engines: bool = False
    leaves_engines: bool = False
    is_loud: bool = True


class Core:
    """The server's six calls."""

    def __init__(self, behaviour: Behaviour, configuration: dict[str, Any]) -> None:
        self._behaviour = behaviour
        self._configuration = configuration
        self._state = "Created"
        self._step = 0
        self._gathered: list[int] = []
        self._handed_in: list[Any] = []
        self._engines: list[subprocess.Popen[bytes]] = []
        self._transfers: list[DataTransfer] = []
        self._stop = threading.Event()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def initialize(self, _request: Any) -> Any:
        for engine in self._configuration["EngineConfigs"]:
            environment = {"PATH": os.environ["PATH"]} if self._behaviour.bare_engines else None
            self._engines.append(subprocess.Popen(["sleep", "600"], env=environment, start_new_session=True))
            if engine["EngineType"] == "datatransfer_grpc_engine":
                self._transfers.append(DataTransfer(engine))
        Path(ENGINES).write_text(json.dumps([engine.pid for engine in self._engines]))
        if self._behaviour.fails_to_initialize:
            return pb.InitializeResponse(simState=self._failed(self._behaviour.fails_to_initialize))
        self._state = "Initialized"
        return pb.InitializeResponse(simState=self._sim_state(), trajectory=self._trajectory([0]))

    def runLoop(self, request: Any) -> Any:  # noqa: N802  its name on the wire
        self._note("runLoop", steps=request.numIterations, **_told(request.dataPacks))
        if self._behaviour.echoes:
            self._handed_in += [each.data for each in request.dataPacks.protoDataPacks]
        done = False
        self._stop.clear()
        for _ in range(request.numIterations):
            failed = self._take_step()
            if failed is not None:
                return pb.RunLoopResponse(simState=failed)
            done = self._step == self._behaviour.done_at  # the last one counts
            if self._stop.is_set():
                break
        return self._advanced(done=done, timed_out=False, hand_out=done)

    def runUntilTimeout(self, _request: Any) -> Any:  # noqa: N802  its name on the wire
        self._note("runUntilTimeout")
        timeout = int(self._configuration["SimulationTimeout"])
        timestep = self._configuration["EngineConfigs"][0]["EngineTimestep"]
        done = timed_out = False
        while not done and not timed_out:
            failed = self._take_step()
            if failed is not None:
                return pb.RunLoopResponse(simState=failed)
            done = self._step == self._behaviour.done_at
            timed_out = timeout > 0 and self._step * timestep >= timeout
        return self._advanced(done=done, timed_out=timed_out, hand_out=True)

    def stopLoop(self, _request: Any) -> Any:  # noqa: N802  its name on the wire
        self._note("stopLoop")
        self._stop.set()
        return pb.Response(simState=self._sim_state())

    def reset(self, request: Any) -> Any:
        self._note("reset", **_told(request.dataPacks))
        self._step, self._gathered, self._state = 0, [], "Initialized"
        return pb.ResetResponse(simState=self._sim_state(), trajectory=self._trajectory([0]))

    def shutdown(self, _request: Any) -> Any:
        self._note("shutdown")
        if self._behaviour.stays:
            time.sleep(600)
        for transfer in self._transfers:
            transfer.shutdown()
        if not self._behaviour.leaves_engines:
            for engine in self._engines:
                engine.kill()
                engine.wait()
        self._engines.clear()
        self._state = "Created"
        return pb.Response(simState=self._sim_state())

    # -- what they do --------------------------------------------------------------------------------------------------

    def handle(self, method: str, request: Any, context: grpc.ServicerContext) -> Any:
        """Carry out a call, when the state allows it."""
        if method == self._behaviour.refuses or self._state not in ALLOWED_IN[method]:
            context.abort(grpc.StatusCode.CANCELLED, f"Can't process request: the state is {self._state}")
        if method in ("runLoop", "runUntilTimeout"):
            self._state = "Running"
        return getattr(self, method)(request)

    def _note(self, call: str, **details: Any) -> None:
        if self._behaviour.is_loud:
            _note(call, **details)

    def _take_step(self) -> Any:
        """Take a step. Returns the state when it failed, else None."""
        self._step += 1
        self._gathered.append(self._step)
        time.sleep(600 if self._step == self._behaviour.hangs_at else self._behaviour.step_s)
        for transfer in self._transfers:
            transfer.step(self._step)
        if self._step == self._behaviour.dies_at:
            print(f"step {self._step}: something terrible happened", flush=True)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
            time.sleep(600)  # another thread may be the one that is told
        if self._step == self._behaviour.fails_at:
            return self._failed(self._behaviour.failure)
        return None

    def _advanced(self, *, done: bool, timed_out: bool, hand_out: bool) -> Any:
        self._state = "Stopped"
        steps: list[int] = []
        if hand_out:
            steps, self._gathered = self._gathered, steps
        trajectory = self._trajectory(steps)
        for message in self._handed_in if hand_out else []:
            place = len(trajectory.jsonTrajectoryMessages) + len(trajectory.protoTrajectoryMessages)
            trajectory.protoTrajectoryMessages.add(dataIndex=place, data=message)
        said = pb.SimStateMessage(currentState=self._state if self._behaviour.says is None else self._behaviour.says)
        return pb.RunLoopResponse(simState=said, doneFlag=done, timeoutFlag=timed_out, trajectory=trajectory)

    def _failed(self, why: str) -> Any:
        self._state = "Failed"
        return pb.SimStateMessage(currentState="Failed", errorMsg=why)

    def _sim_state(self) -> Any:
        return pb.SimStateMessage(currentState=self._state)

    def _trajectory(self, steps: list[int]) -> Any:
        """A message and a JSON value for each step; JSON values and messages travel apart."""
        trajectory = pb.Trajectory()
        wrong = self._behaviour.wrong if self._step >= self._behaviour.wrong_from else ""
        for step in steps:
            place = len(trajectory.jsonTrajectoryMessages) + len(trajectory.protoTrajectoryMessages)
            message = trajectory.protoTrajectoryMessages.add(dataIndex=place)
            message.data.Pack(dump.String(string_stream=f"step {step}"))
            value = trajectory.jsonTrajectoryMessages.add(dataIndex=place if wrong == "places" else place + 1)
            value.data.Pack(pb.JsonMessage(data="{" if wrong == "json" else json.dumps({"step": step})))
            if wrong == "type":
                message.data.type_url = "type.googleapis.com/Unheard.Of"
            if wrong == "bytes":
                message.data.value = b"\xff"
        return trajectory


class DataTransfer:
    """A data transfer engine that publishes a text in each step. Two of one client name disconnect each other."""

    def __init__(self, configuration: dict[str, Any]) -> None:
        prefix = configuration["MQTTPrefix"]
        root = f"nrp_simulation/{configuration['simulationID']}"
        self._root = f"{prefix}/{root}" if prefix else root
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2, f"{prefix}_{configuration['EngineName']}", protocol=mqtt.MQTTv311
        )
        self._client.on_disconnect = lambda *_: _note("disconnected")
        host, _, port = configuration["MQTTBroker"].partition(":")
        self._client.connect(host, int(port))
        self._client.loop_start()
        self._publish("welcome", b"NRP-core is connected!", retain=True)
        self._publish(
            "data", json.dumps([{"topic": f"{self._root}/data/words", "type": "Dump.String"}]).encode(), retain=True
        )

    def step(self, step: int) -> None:
        """Publish what a step brought."""
        self._publish("data/words", dump.String(string_stream=f"step {step}").SerializeToString())

    def shutdown(self) -> None:
        """Say good-bye."""
        self._publish("welcome", b"Bye! NRP-core is disconnecting!", retain=True)
        self._client.on_disconnect = None
        self._client.disconnect()
        self._client.loop_stop()

    def _publish(self, leaf: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(f"{self._root}/{leaf}", payload, qos=1, retain=retain).wait_for_publish(5)


def _told(datapacks: Any) -> dict[str, Any]:
    """The datapacks that were handed in, by "engine/name: type"."""
    told: dict[str, Any] = {}
    for each in [*datapacks.jsonDataPacks, *datapacks.protoDataPacks]:
        identity = each.dataPackId
        value: Any = each.data.type_url
        if each.data.Is(pb.JsonMessage.DESCRIPTOR):
            value = json.loads(pb.JsonMessage.FromString(each.data.value).data)
        elif each.data.Is(dump.String.DESCRIPTOR):
            value = dump.String.FromString(each.data.value).string_stream
        told[f"{identity.engineName}/{identity.dataPackName}: {identity.dataPackType}"] = value
    return {"told": told} if told else {}


def _note(call: str, **details: Any) -> None:
    with Path(CALLS).open("a") as calls:
        calls.write(json.dumps([call, details]) + "\n")


def _override(configuration: Any, option: str) -> None:
    path, _, value = option.partition("=")
    *steps, last = path.split(".")
    for step in steps:
        configuration = configuration[int(step) if isinstance(configuration, list) else step]
    configuration[last] = json.loads(value)


def main() -> None:
    """Be NRPCoreSim."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-c", dest="configuration", type=Path, required=True)
    parser.add_argument("-m", dest="mode", choices=["server"], required=True)
    parser.add_argument("--server_address", required=True)
    parser.add_argument("--logoutput", choices=["all"], required=True)
    parser.add_argument("--logfilename", choices=[".console_output.log"], required=True)
    parser.add_argument("-p", dest="plugins")
    parser.add_argument("-o", dest="overrides", action="append", default=[])
    options = parser.parse_args()
    behaviour = Behaviour(**json.loads(Path(BEHAVIOUR).read_text())) if Path(BEHAVIOUR).exists() else Behaviour()
    configuration = json.loads(options.configuration.read_text())
    for option in options.overrides:
        _override(configuration, option)
    _note("launched", configuration=configuration, arguments=sys.argv[1:])
    print("NRPCoreSim starts", flush=True)
    if behaviour.stays:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(behaviour.start_s)
    if behaviour.exits_at_start is not None:
        print("libgazebo.so: cannot open shared object file", file=sys.stderr)
        sys.exit(behaviour.exits_at_start)
    if len(calls(Path())) <= behaviour.starts_in_vain:
        host, _, port = options.server_address.partition(":")
        somebody = socket.create_server((host, int(port)))  # noqa: F841  closed at the end
    _serve(Core(behaviour, configuration), options.server_address)


def _serve(core: Core, address: str) -> None:
    requests = {"runLoop": pb.RunLoopMessage, "reset": pb.ResetMessage}
    handlers = {
        method: grpc.unary_unary_rpc_method_handler(
            lambda request, context, method=method: core.handle(method, request, context),
            request_deserializer=requests.get(method, pb.EmptyMessage).FromString,
            response_serializer=lambda response: response.SerializeToString(),
        )
        for method in ("initialize", "runLoop", "runUntilTimeout", "stopLoop", "reset", "shutdown")
    }
    server = grpc.server(futures.ThreadPoolExecutor(2))  # one for a loop, one for the call that stops it
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("NrpCore.NrpCore", handlers)])
    server.add_insecure_port(address)  # raises when it is taken
    server.start()
    server.wait_for_termination()


# -- what tests see of it --------------------------------------------------------------------------------------------


def install(folder: Path) -> Path:
    """Make the stand-in a program `NRPCoreSim` in `folder`; returns its path."""
    program = folder / "NRPCoreSim"
    root = Path(__file__).parents[1]
    program.write_text(
        f"#!{sys.executable} -P\nimport sys\nsys.path.insert(0, {str(root)!r})\n"
        "from tests.nrpcoresim import main\nmain()\n"
    )
    program.chmod(0o755)
    return program


def behave(folder: Path, **how: Any) -> None:
    """Tell the stand-in that runs the experiment in `folder` how to behave."""
    (folder / BEHAVIOUR).write_text(json.dumps(asdict(Behaviour(**how))))


def calls(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """What it was asked, in order: the call and its details."""
    lines = (folder / CALLS).read_text().splitlines()
    return [(call, details) for call, details in map(json.loads, lines)]


def engines(folder: Path) -> list[int]:
    """The process ids of its engines."""
    pids: list[int] = json.loads((folder / ENGINES).read_text())
    return pids


if __name__ == "__main__":
    main()
