"""nest_server engines with a real NEST Server, their own or one that is there; see test_nest for the network itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import psutil
import pytest

from nrp_common.errors import ConfigurationError, EngineFailed, EngineUnavailable
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.embedded.nest_server import connection, engine
from nrp_simserver.cores.embedded.nest_server.own_server import OwnNestServer
from nrp_simserver.server.error_report import error_report
from tests.nest_servers import misbehaving_server, nest_server
from tests.ports import free_port
from tests.unit.cores.experiment import Experiment, seen
from tests.waiting import wait_until

NETWORK = """
import nest
from nrp_core.engines.nest_json import CreateDataPack

neurons = CreateDataPack("neurons", "iaf_psc_alpha", 2, {"I_e": 800.0})
"""

WATCH = """
@EngineDataPack(keyword="neurons", id=DataPackIdentifier("neurons", "brain"))
@TransceiverFunction("brain")
def watch(neurons):
    seen.append([neuron["V_m"] for neuron in neurons.data])
    return []
"""

OPEN = {
    "NEST_SERVER_DISABLE_AUTH": "true",
    "NEST_SERVER_ENABLE_EXEC_CALL": "true",
    "NEST_SERVER_DISABLE_RESTRICTION": "true",
}
"""A NEST Server that executes whatever it is sent."""


@pytest.fixture
def brain(experiment: Experiment) -> Experiment:
    experiment.file("network.py", NETWORK)
    entry = {"EngineName": "brain", "EngineType": "nest_server", "NestInitFileName": "network.py"}
    experiment.configuration["EngineConfigs"] = [entry]
    return experiment.function("watch", WATCH)


@pytest.fixture(autouse=True)
def no_server_is_left() -> Iterator[None]:
    yield
    assert servers() == []


def servers() -> list[psutil.Process]:
    """The NEST Servers that this process has started and not taken note of the end of."""
    return [child for child in psutil.Process().children() if is_server(child)]


def is_server(process: psutil.Process) -> bool:
    return process.status() == psutil.STATUS_ZOMBIE or any("serving.py" in word for word in process.cmdline())


def core_of(brain: Experiment, cores: list[EmbeddedCore], **fields: object) -> EmbeddedCore:
    """The core that runs it, with further fields of the engine."""
    brain.configuration["EngineConfigs"][0].update(fields)
    cores.append(brain.core())
    return cores[-1]


def started(brain: Experiment, cores: list[EmbeddedCore], **fields: object) -> EmbeddedCore:
    core = core_of(brain, cores, **fields)
    core.initialize()
    return core


def failure_of(brain: Experiment, cores: list[EmbeddedCore], **fields: object) -> EngineFailed:
    """What initialising it fails with."""
    with pytest.raises(EngineFailed) as failure:
        started(brain, cores, **fields)
    return failure.value


# -- init files ------------------------------------------------------------------------------------------------------


def test_an_init_file_may_leave_its_populations_in_a_dict(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file(
        "network.py",
        """
        import nest

        neurons = nest.Create("iaf_psc_alpha", 4)
        neurons.V_m = [-61.0, -62.0, -63.0, -64.0]
        populations = {"neurons": neurons[1:3], "ids": [1, 4], "one": 2}
        """,
    )
    for name in ("ids", "one"):
        brain.function(name, WATCH.replace('"neurons", "brain"', f'"{name}", "brain"'))
    started(brain, cores).run_loop(1)
    assert seen == [[-62.0, -63.0], [-61.0, -64.0], [-62.0]]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("populations = [1]", r"populations has to be a dict .*, not list"),
        ('populations = {"neurons": "all"}', r"'neurons' has to stand for nodes or connections, not str"),
        ('populations = {"neurons": [7]}', r"UnknownNode: .*7"),
    ],
)
def test_populations_that_are_none_are_refused(
    brain: Experiment, cores: list[EmbeddedCore], lines: str, words: str
) -> None:
    brain.file("network.py", lines)
    failed = failure_of(brain, cores)
    assert failed.file == ""
    with pytest.raises(EngineFailed, match=words):
        raise failed


def test_an_init_file_imports_its_neighbours_and_what_is_installed(
    brain: Experiment, cores: list[EmbeddedCore]
) -> None:
    brain.file("parameters.py", "V_M = -61.5")
    brain.file(
        "network.py", "import parameters\nimport numpy as np\n", NETWORK, "neurons.V_m = np.full(2, parameters.V_M)"
    )
    started(brain, cores).run_loop(1)
    assert seen == [[-61.5, -61.5]]


def test_what_an_init_file_prints_is_printed(
    brain: Experiment, cores: list[EmbeddedCore], capsys: pytest.CaptureFixture[str]
) -> None:
    brain.file("network.py", NETWORK, "print('built', len(neurons), 'neurons')")
    started(brain, cores)
    assert capsys.readouterr().out == "built 2 neurons\n"


@pytest.mark.parametrize(
    ("mistake", "kind", "words"),
    [
        ("nothing_of_that_name", "NameError", "name 'nothing_of_that_name' is not defined"),
        ('nest.Create("iaf_psc_omega")', "UnknownModelName", "iaf_psc_omega"),
        ("neurons.tau_m = -1.0", "BadProperty", "Membrane time constant must be > 0"),
        ("neurons = (", "SyntaxError", "'(' was never closed"),
        ("raise SystemExit(3)", "SystemExit", "3"),
    ],
)
def test_an_error_in_the_init_file_is_told_with_its_place(
    brain: Experiment, cores: list[EmbeddedCore], mistake: str, kind: str, words: str
) -> None:
    brain.file("network.py", NETWORK, mistake)
    failed = failure_of(brain, cores)
    report = error_report(failed, experiment=brain.folder, main_script="", simulation_id=1, while_loading=True)
    assert (report.file_name, report.line_number, report.line_text) == ("network.py", 6, mistake)
    assert report.msg.startswith(f"{kind} in network.py (Line 6)")
    assert words in report.msg
    assert report.error_type == ("Compile" if kind == "SyntaxError" else "Loading")


def test_an_error_in_a_neighbour_is_told_with_its_place(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("parameters.py", "\nV_M = 1 / 0")
    brain.file("network.py", "import parameters")
    failed = failure_of(brain, cores)
    assert (failed.file, failed.line) == ("parameters.py", 2)


# -- its own server --------------------------------------------------------------------------------------------------


def test_its_own_server_is_ended_with_it(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain, cores)
    [server] = servers()
    core.shutdown()
    assert not server.is_running()


def test_its_own_server_has_its_environment_variables(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", "import os\n", NETWORK, 'neurons.V_m = float(os.environ["RESTING"])')
    started(brain, cores, EngineEnvParams=["RESTING=-63"]).run_loop(1)
    assert seen == [[-63.0, -63.0]]


def test_its_own_server_lets_nobody_else_execute_anything(tmp_path: Path) -> None:
    server = OwnNestServer(tmp_path, {})
    intruder = connection.Connection("127.0.0.1", server.port, "guessed")
    engine_itself = connection.Connection("127.0.0.1", server.port, server.token)
    try:
        with pytest.raises(connection.NestServerRefused, match="access token"):
            intruder.execute("x = 1", "x")
        assert engine_itself.execute("x = 1", "x").data == 1
    finally:
        engine_itself.close()
        server.end()


def test_nothing_is_left_of_a_server_whose_init_file_fails(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", "1 / 0")
    failure_of(brain, cores)
    assert servers() == []


def test_a_server_that_dies_is_told_with_its_last_words(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", 'import os, sys\nprint("no more", file=sys.stderr, flush=True)\nos._exit(7)')
    failed = str(failure_of(brain, cores))
    assert failed.startswith("engine 'brain': NEST Server at 127.0.0.1:")
    assert failed.endswith("it ended with status 7; its last words:\nno more")


def test_a_server_that_is_killed_between_steps_is_told(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    core = started(brain, cores)
    core.run_loop(2)
    servers()[0].kill()
    with pytest.raises(EngineFailed, match=r"NEST Server at .* it was ended by SIGKILL"):
        core.run_loop(2)
    assert core.current_state() == "Failed"


def test_a_port_that_is_taken_is_told(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        failed = str(failure_of(brain, cores, NestServerPort=taken.getsockname()[1]))
    assert "NEST Server did not start: it ended with status 1" in failed
    assert "Address already in use" in failed


def test_a_server_that_does_not_answer_within_the_command_timeout_fails(
    brain: Experiment, cores: list[EmbeddedCore]
) -> None:
    core = started(brain, cores, EngineCommandTimeout=3)
    servers()[0].suspend()
    with pytest.raises(EngineFailed, match=r"has not answered for 3 s, the engine's EngineCommandTimeout"):
        core.run_loop(2)


def test_an_init_file_that_hangs_fails_by_the_command_timeout(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    brain.file("network.py", "while True: pass")
    assert "EngineCommandTimeout" in str(failure_of(brain, cores, EngineCommandTimeout=0.3))
    assert servers() == []


@pytest.mark.parametrize("thread", ["main", "another"])
def test_its_own_server_dies_with_a_simulation_that_is_killed(brain: Experiment, thread: str) -> None:
    brain.core()
    run = (
        "import sys, threading\nfrom nrp_simserver.cores.embedded import EmbeddedCore\n"
        "def run():\n"
        "    core = EmbeddedCore(sys.argv[1])\n    core.initialize()\n    print('ready', flush=True)\n"
        "    while True: core.run_loop()\n"
        "run() if sys.argv[2] == 'main' else threading.Thread(target=run).start()"
    )
    simulation = subprocess.Popen(
        [sys.executable, "-c", run, brain.folder, thread],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.PIPE,
        text=True,
    )
    with simulation:
        assert simulation.stdout is not None
        assert simulation.stdout.readline() == "ready\n"
        [server] = [child for child in psutil.Process(simulation.pid).children() if is_server(child)]
        simulation.kill()
    wait_until(lambda: not server.is_running() or server.status() == psutil.STATUS_ZOMBIE)


def test_a_simulation_that_was_interrupted_in_a_step_goes_on_with_the_right_answers(
    brain: Experiment, cores: list[EmbeddedCore]
) -> None:
    class Interrupted(BaseException):
        pass

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        raise Interrupted

    def run_until_interrupted() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        core.run_loop(10)

    core = started(brain, cores)
    core.run_loop(1)
    [server] = servers()
    server.suspend()
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            run_until_interrupted()
    finally:
        signal.signal(signal.SIGALRM, before)
        server.resume()
    assert core.current_state() == "Stopped"
    seen.clear()
    core.run_loop(2)
    core.reset()
    core.run_loop(1)
    assert {len(values) for values in seen} == {2}
    assert seen[-1] == [-70.0, -70.0]


def test_other_engines_step_while_it_does(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    del brain.configuration["DataPackProcessingFunctions"]
    core = started(brain.engine("body"), cores)
    [server] = servers()
    server.suspend()
    core.run_loop(1)
    assert [name for name, *_ in seen] == ["body"]
    server.resume()
    core.run_loop(1)


@pytest.mark.parametrize("fields", [{"EngineCommandTimeout": 20}, {"EngineEnvParams": ["A=1"]}])
def test_it_needs_no_process_besides_its_server(
    brain: Experiment, cores: list[EmbeddedCore], fields: dict[str, object]
) -> None:
    before = psutil.Process().children()
    started(brain, cores, **fields)
    assert [child for child in psutil.Process().children() if child not in before] == servers()


# -- a server that is there ------------------------------------------------------------------------------------------


def executed(source: str, variable: str, port: int) -> object:
    """What somebody else has a server execute."""
    somebody = connection.Connection("127.0.0.1", port)
    try:
        return somebody.execute(source, variable).data
    finally:
        somebody.close()


def test_it_uses_a_server_that_is_there_and_leaves_the_network_in_it(
    brain: Experiment, cores: list[EmbeddedCore]
) -> None:
    with nest_server(**OPEN) as port:
        core = started(brain, cores, NestServerHost="localhost", NestServerPort=port)
        assert servers() == []
        core.run_loop(3)
        core.shutdown()
        assert executed("nodes = nest.network_size", "nodes", port) == 2
    assert seen[0] == [-70.0, -70.0]
    assert -70 < seen[1][0] < seen[2][0]


def test_it_has_the_access_token_from_its_environment(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    with nest_server(**{**OPEN, "NEST_SERVER_DISABLE_AUTH": "false", "NEST_SERVER_ACCESS_TOKEN": "swordfish"}) as port:
        there = {"NestServerHost": "127.0.0.1", "NestServerPort": port}
        assert "NEST_SERVER_ACCESS_TOKEN" in str(failure_of(brain, cores, **there))
        started(brain, cores, **there, EngineEnvParams=["NEST_SERVER_ACCESS_TOKEN=swordfish"]).run_loop(1)
    assert seen == [[-70.0, -70.0]]


@pytest.mark.parametrize(
    ("variable", "words"),
    [
        ("NEST_SERVER_ENABLE_EXEC_CALL", "start it with NEST_SERVER_ENABLE_EXEC_CALL=true"),
        ("NEST_SERVER_DISABLE_RESTRICTION", "start it with NEST_SERVER_DISABLE_RESTRICTION=true"),
    ],
)
def test_a_server_that_does_not_let_it_is_told_with_the_remedy(
    brain: Experiment, cores: list[EmbeddedCore], variable: str, words: str
) -> None:
    with nest_server(**{**OPEN, variable: "false"}) as port:
        assert words in str(failure_of(brain, cores, NestServerHost="127.0.0.1", NestServerPort=port))


def test_a_server_that_was_started_anew_has_lost_the_network(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    with nest_server(**OPEN) as port:
        core = started(brain, cores, NestServerHost="127.0.0.1", NestServerPort=port)
        core.run_loop(2)
        executed("__import__('sys').modules.pop('nrp_inside')", "", port)
        with pytest.raises(EngineFailed, match=f"NEST Server at 127.0.0.1:{port} has lost the network"):
            core.run_loop(2)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "has gone: it closed the connection without an answer"),
        (b"banana", r"answers what is no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[1,2]", r"status 200: \[1,2\]"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", "answers what is no HTTP"),
        (
            b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n{"data":1}',
            "answers what nobody asked: 1",
        ),
        (b'HTTP/1.1 400 BAD\r\n\r\n{"message": "KeyError at line 1: x"}', "status 400: KeyError at line 1: x"),
        (b"HTTP/1.1 500 X\r\n\r\n<html><h1>Oops</h1>\n<p>Sorry.</p>", "status 500: Oops Sorry"),
        (b"HTTP/1.1 404 X\r\n\r\n" + b"no " * 1000, r"status 404: no no .*\.\.\."),
    ],
)
def test_a_server_that_answers_nonsense_is_told(
    brain: Experiment, cores: list[EmbeddedCore], answer: bytes, words: str
) -> None:
    with misbehaving_server(answer) as port:
        failed = failure_of(brain, cores, NestServerHost="127.0.0.1", NestServerPort=port)
    with pytest.raises(EngineFailed, match=rf"engine 'brain': NEST Server at 127.0.0.1:{port} .*{words}"):
        raise failed


def test_where_no_server_is_is_told(brain: Experiment, cores: list[EmbeddedCore]) -> None:
    port = free_port()
    failed = failure_of(brain, cores, NestServerHost="127.0.0.1", NestServerPort=port)
    assert str(failed) == f"engine 'brain': NEST Server at 127.0.0.1:{port} cannot be reached: Connection refused"


# -- what it needs ---------------------------------------------------------------------------------------------------


def test_without_nest_the_extra_is_named_except_for_a_server_elsewhere(
    brain: Experiment, cores: list[EmbeddedCore], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_is_installed", lambda module: module == "flask_cors")
    with pytest.raises(EngineUnavailable, match=r"nest-simulator, restrictedpython: pip install 'nrp-backend\[nest\]'"):
        brain.core()
    core_of(brain, cores, NestServerHost="elsewhere")


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_refused(brain: Experiment, cores: list[EmbeddedCore], port: int) -> None:
    with pytest.raises(ConfigurationError, match="NestServerPort"):
        core_of(brain, cores, NestServerPort=port)
