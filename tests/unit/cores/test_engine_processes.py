"""Engines in processes of their own: they behave as in the simulation's process, and none outlives the simulation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from nrp_common.errors import ConfigurationError, EngineFailed
from nrp_common.messages import RuntimeErrorReport
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.server.error_report import error_report
from tests.unit.cores.experiment import ENGINE, Experiment, forward, seen
from tests.waiting import wait_until

APART = {"EngineExtraConfigs": {"OwnProcess": True}}

TELL = """
import json, os, sys

def tell(*what):
    with open("told.jsonl", "a") as told:
        print(json.dumps([os.getpid(), *what]), file=told)
"""
"""What engines tell is read by `told`: they share nothing with the test but files."""


def told(experiment: Experiment) -> list[list[Any]]:
    """What engines told, each with the id of its process first."""
    file = experiment.folder / "told.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def script(**methods: str) -> str:
    """An engine with these methods."""
    lines = ["class Script(EngineScript):"]
    for name, body in {"runLoop": "pass", **methods}.items():
        lines.append(f"    def {name}(self{', timestep_ns' if name == 'runLoop' else ''}):")
        lines += [f"        {line}" for line in body.splitlines()]
    return TELL + "\n".join(lines)


def line_of(experiment: Experiment, file: str, text: str) -> int:
    """The number of the line of a file that contains this."""
    return next(
        number for number, line in enumerate((experiment.folder / file).read_text().splitlines(), 1) if text in line
    )


def run_everything(core: EmbeddedCore) -> None:
    """Have an engine do all that there is to do."""
    core.initialize()
    core.run_loop(2)
    core.reset()
    core.shutdown()


def failure_of(core: EmbeddedCore) -> EngineFailed:
    """What comes of running everything; the core is shut down then."""
    with pytest.raises(EngineFailed) as failure:
        run_everything(core)
    core.shutdown()
    return failure.value


def reported(error: EngineFailed, experiment: Experiment) -> RuntimeErrorReport:
    """What a scientist is told."""
    return error_report(error, experiment=experiment.folder, main_script="", simulation_id=1, while_loading=False)


@pytest.fixture(autouse=True)
def nothing_is_left(experiment: Experiment) -> Iterator[None]:
    """After each test, once its core is shut down, none of its processes is there."""
    yield
    assert [child for child in psutil.Process().children(recursive=True) if is_of(child, experiment)] == []


def is_of(process: psutil.Process, experiment: Experiment) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE or Path(process.cwd()) == experiment.folder
    except psutil.NoSuchProcess:  # one of somebody else, as none of the experiment's ends by itself
        return False


# -- which engines ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "is_apart"),
    [
        ({}, False),
        ({"EngineLaunchCommand": {"LaunchType": "BasicFork"}}, False),
        (APART, True),
        ({"EngineEnvParams": ["A=1"]}, True),
        ({"EngineCommandTimeout": 10}, True),
        ({"EngineEnvParams": ["A=1"], "EngineExtraConfigs": {"OwnProcess": False}}, False),
    ],
)
def test_an_engine_runs_apart_when_it_needs_or_asks_for_it(
    fields: dict[str, Any], is_apart: bool, experiment: Experiment
) -> None:
    experiment.engine("a", script(initialize="tell()"), **fields).started().shutdown()
    [[process]] = told(experiment)
    assert (process != os.getpid()) is is_apart


def test_the_backend_can_have_all_engines_run_apart(experiment: Experiment) -> None:
    experiment.engine("a", script(initialize="tell()")).engine("b", script(initialize="tell()")).core()
    core = EmbeddedCore(experiment.folder, engine_processes="all")
    core.initialize()
    core.shutdown()
    assert len({os.getpid(), *(process for [process] in told(experiment))}) == 3


def test_an_engine_that_hands_on_data_stays_where_these_can_be_published(experiment: Experiment) -> None:
    published: list[str] = []
    experiment.configuration["EngineConfigs"] = [
        {"EngineName": "out", "EngineType": "datatransfer_grpc_engine", "dumps": [], **APART}
    ]
    core = experiment.core(publisher=lambda topic, *_: published.append(topic))
    core.initialize()
    core.run_loop()
    core.shutdown()
    assert "time" in published


def test_what_asks_for_a_process_has_to_be_true_or_false(experiment: Experiment) -> None:
    experiment.engine("a", EngineExtraConfigs={"OwnProcess": "yes"})
    with pytest.raises(ConfigurationError, match=r"EngineConfigs\.0\.EngineExtraConfigs: OwnProcess has to be true or"):
        experiment.core()


def test_two_engines_of_nest_have_one_each(experiment: Experiment, cores: list[EmbeddedCore]) -> None:
    network = """
    import nest
    from nrp_core.engines.nest_json import CreateDataPack
    neurons = CreateDataPack("neurons", "iaf_psc_alpha", {count}, {{"I_e": {current}}})
    """
    entries = []
    for name, count, current in (("one", 1, 0.0), ("two", 2, 500.0)):
        experiment.file(f"{name}.py", network.format(count=count, current=current))
        entries.append({"EngineName": name, "EngineType": "nest_json", "NestInitFileName": f"{name}.py"})
    experiment.configuration["EngineConfigs"] = entries
    experiment.function(
        "watch",
        """
        @EngineDataPack(keyword="one", id=DataPackIdentifier("neurons", "one"))
        @EngineDataPack(keyword="two", id=DataPackIdentifier("neurons", "two"))
        @TransceiverFunction("two")
        def watch(one, two):
            seen.append([node["V_m"] for node in [*one.data, *two.data]])
        """,
    )
    cores.append(experiment.started())
    cores[-1].run_loop(3)
    resting, *excited = seen[-1]
    assert resting == -70.0
    assert len(excited) == 2
    assert min(excited) > -70.0


# -- as in the simulation's process ----------------------------------------------------------------------------------


def test_it_alone_has_the_environment_variables_that_it_asks_for(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARED", "outside")
    monkeypatch.delenv("OWN", raising=False)
    source = script(runLoop='tell(self._name, os.environ.get("SHARED"), os.environ.get("OWN"))')
    experiment.engine("a", source, EngineEnvParams=["SHARED=a=b", "OWN=1"]).engine("b", source)
    core = experiment.engine("c", source, EngineEnvParams={"OWN": "2"}).started()
    core.run_loop(2)
    core.shutdown()
    seen_by = [["a", "a=b", "1"], ["b", "outside", None], ["c", "outside", "2"]]
    assert sorted(rest for _, *rest in told(experiment)) == sorted(seen_by * 2)


def test_it_finds_modules_where_its_pythonpath_says(experiment: Experiment) -> None:
    (experiment.folder / "elsewhere").mkdir()
    experiment.file("elsewhere/of_mine.py", "ANSWER = 42")
    path = f"PYTHONPATH={experiment.folder / 'elsewhere'}"
    source = script(initialize="import of_mine\ntell(of_mine.ANSWER)")
    experiment.engine("a", source, EngineEnvParams=[path]).started().shutdown()
    assert [rest for _, *rest in told(experiment)] == [[42]]


def test_messages_cross_with_their_types(experiment: Experiment, cores: list[EmbeddedCore]) -> None:
    experiment.file("apart.proto", 'syntax = "proto3"; package Apart; message Speed { double metres = 1; }')
    source = """
    from nrp_protobuf import apart_pb2

    class Script(GrpcEngineScript):
        def initialize(self):
            self._registerDataPack("speed", apart_pb2.Speed)
            self._setDataPack("speed", apart_pb2.Speed(metres=1.5))

        def runLoop(self, timestep_ns):
            speed = self._getDataPack("speed")
            self._setDataPack("speed", apart_pb2.Speed(metres=speed.metres * 2))
    """
    experiment.grpc_engine("a", source, **APART).grpc_engine("b", source, **APART)
    experiment.function(
        "swap",
        """
        from nrp_core.data.nrp_protobuf import *

        @EngineDataPack(keyword="speed", id=DataPackIdentifier("speed", "a"))
        @TransceiverFunction("a")
        def swap(speed):
            seen.append((type(speed).__name__, speed.data.metres, speed.isUpdated()))
            out = ApartSpeedDataPack("speed", "a")
            out.data.metres = speed.data.metres + 1
            return [out]
        """,
    )
    cores.append(experiment.started())
    cores[-1].run_loop(3)
    assert seen == [("ApartSpeedDataPack", metres, True) for metres in (1.5, 5.0, 12.0)]


def test_a_message_that_the_simulation_does_not_know_is_an_error_that_says_so(experiment: Experiment) -> None:
    source = """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="hidden.proto", package="Hidden", syntax="proto3")
    file.message_type.add(name="Thing")
    descriptor_pool.Default().Add(file)
    Thing = message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName("Hidden.Thing"))

    class Script(GrpcEngineScript):
        def initialize(self):
            self._registerDataPack("out", Thing)
    """
    experiment.grpc_engine("a", source, **APART).function("f", forward("a", "a"))
    core = experiment.core()
    with pytest.raises(EngineFailed, match=r"messages of type Hidden\.Thing are known to one process only: put the"):
        core.initialize()
    core.shutdown()


def test_reset_restarts_its_time_and_keeps_what_it_holds(experiment: Experiment, cores: list[EmbeddedCore]) -> None:
    source = (
        ENGINE.replace("seen.append((", "tell(*(") + "\n    def reset(self):\n        tell('reset', self._time_ns)\n"
    )
    experiment.engine("a", TELL + source.strip("\n").replace("\n", "\n"), **APART)
    experiment.function("f", forward("a", "a"))
    cores.append(experiment.started())
    cores[-1].run_loop(2)
    cores[-1].set_json_datapack("inbox", "a", {"steps": "of the client"})
    observations = cores[-1].reset()
    cores[-1].run_loop(1)
    cores[-1].shutdown()
    assert observations == [{"steps": 2}]
    assert [rest for _, *rest in told(experiment)] == [
        ["a", 10_000_000, {"steps": 0}],
        ["a", 20_000_000, {"steps": 1}],
        ["reset", 20_000_000],
        ["a", 10_000_000, {"steps": 2}],
    ]


def test_engines_draw_different_random_numbers(experiment: Experiment) -> None:
    draw = "import random\nimport numpy.random\ntell(random.random(), float(numpy.random.random()))"
    for name in ("a", "b"):
        experiment.engine(name, script(initialize=draw), **APART)
    experiment.started().shutdown()
    (_, *first), (_, *second) = told(experiment)
    assert not set(first) & set(second)


def test_what_it_prints_comes_out_where_the_simulation_prints(
    experiment: Experiment, capsys: pytest.CaptureFixture[str]
) -> None:
    speak = 'print("spoken")\nprint("complained", file=sys.stderr)\nos.system("echo shouted")'
    experiment.engine("a", script(initialize=speak), **APART).started().shutdown()
    output = capsys.readouterr()
    assert sorted(output.out.splitlines()) == ["shouted", "spoken"]
    assert output.err == "complained\n"


def test_a_file_that_it_leaves_open_is_written_to_its_end(experiment: Experiment) -> None:
    experiment.engine("a", script(initialize='self.log = open("left_open.txt", "w")\nself.log.write("all")'), **APART)
    with (experiment.folder / "mine.txt").open("w") as mine:
        mine.write("once")
        experiment.started().shutdown()
    assert (experiment.folder / "left_open.txt").read_text() == "all"
    assert (experiment.folder / "mine.txt").read_text() == "once"


# -- at the same time ------------------------------------------------------------------------------------------------

MEET = """
open(f"{self._name} is in step {self._time_ns}", "w").close()
while not os.path.exists(f"{other} is in step {self._time_ns}"):
    pass
"""


@pytest.mark.parametrize("fields_of_b", [APART, {}], ids=["both apart", "one apart"])
@pytest.mark.timeout(20)
def test_engines_step_at_the_same_time(experiment: Experiment, fields_of_b: dict[str, Any]) -> None:
    experiment.engine("b", script(runLoop="other = 'a'" + MEET), **fields_of_b)
    core = experiment.engine("a", script(runLoop="other = 'b'" + MEET), **APART).started()
    core.run_loop(3)
    core.shutdown()
    assert (experiment.folder / "a is in step 30000000").exists()


@pytest.mark.timeout(20)
def test_engines_are_initialised_at_the_same_time(experiment: Experiment) -> None:
    experiment.engine("a", script(initialize="other = 'b'" + MEET), **APART)
    experiment.engine("b", script(initialize="other = 'a'" + MEET)).started().shutdown()


# -- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["initialize", "runLoop", "reset", "shutdown"])
def test_an_exception_has_the_place_and_words_that_it_has_in_the_simulations_process(
    method: str, experiment: Experiment
) -> None:
    told_of = []
    for fields in ({}, APART):
        experiment.configuration.clear()
        experiment.file("deeper.py", "def fail():\n    raise LookupError('nothing there')\n")
        experiment.engine("a", script(**{method: "import deeper\ndeeper.fail()"}), **fields)
        error = failure_of(experiment.core())
        told_of.append((str(error), error.file, error.line, reported(error, experiment)))
    assert told_of[0] == told_of[1]
    assert told_of[1][:3] == ("LookupError in deeper.py (Line 2): nothing there", "deeper.py", 2)
    assert told_of[1][3].line_text == "raise LookupError('nothing there')"


@pytest.mark.parametrize("fault", ["undefined_name", "import no_such_module", "raise KeyError('k')", "sys.exit(3)"])
def test_an_error_is_of_the_same_kind_as_in_the_simulations_process(fault: str, experiment: Experiment) -> None:
    reports = []
    for fields in ({}, APART):
        experiment.configuration.clear()
        experiment.engine("a", script(runLoop=fault), **fields)
        reports.append(reported(failure_of(experiment.core()), experiment))
    assert reports[0] == reports[1]


@pytest.mark.parametrize("raised", ["KeyboardInterrupt", "GeneratorExit"])
def test_what_is_no_exception_has_its_place_too(raised: str, experiment: Experiment) -> None:
    source = f"class Script(EngineScript):\n    def runLoop(self, _):\n        raise {raised}\n"
    core = experiment.engine("a", source, **APART).started()
    with pytest.raises(EngineFailed, match=rf"{raised} in a\.py \(Line 5\)"):
        core.run_loop(2)
    core.shutdown()


def test_wrong_syntax_has_its_place(experiment: Experiment) -> None:
    experiment.engine("a", "class Script(EngineScript):\n    def runLoop(self: pass\n", **APART)
    core = experiment.core()
    with pytest.raises(EngineFailed, match=r"SyntaxError in a\.py \(Line 4\)"):
        core.initialize()
    core.shutdown()


def test_the_traceback_of_its_process_goes_with_the_error(experiment: Experiment) -> None:
    core = experiment.engine("a", script(runLoop="1 / 0"), **APART).started()
    with pytest.raises(EngineFailed) as failure:
        core.run_loop(2)
    core.shutdown()
    assert "in runLoop" in "".join(getattr(failure.value.__cause__.__cause__, "__notes__", []))  # type: ignore[union-attr]


def test_an_engine_that_failed_is_still_shut_down(experiment: Experiment) -> None:
    core = experiment.engine("a", script(runLoop="1 / 0", shutdown="tell('shut down')"), **APART).started()
    with pytest.raises(EngineFailed):
        core.run_loop(2)
    core.shutdown()
    assert [rest for _, *rest in told(experiment)] == [["shut down"]]


# -- death -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "how"),
    [
        ("os._exit(3)", "ended with status 3"),
        ("os.kill(os.getpid(), 9)", "was ended by SIGKILL"),
        ("import ctypes; ctypes.string_at(0)", "was ended by SIGSEGV"),
        ("os.abort()", "was ended by SIGABRT"),
    ],
)
def test_an_engine_whose_process_dies_fails_with_its_last_words(end: str, how: str, experiment: Experiment) -> None:
    core = experiment.engine("a", script(runLoop=f"print('the last thing')\n{end}"), **APART).started()
    with pytest.raises(EngineFailed) as failure:
        core.run_loop(2)
    assert core.current_state() == "Failed"
    core.shutdown()
    message = str(failure.value)
    assert message.startswith(f"engine 'a': its process {how} during runLoop")
    assert message.endswith("its last words:\nthe last thing")
    if how.endswith(("SIGSEGV", "SIGABRT")):  # of which Python gets to know
        assert (failure.value.file, failure.value.line) == ("a.py", line_of(experiment, "a.py", end))


def test_a_death_while_the_engine_is_initialised_is_told_at_once(experiment: Experiment) -> None:
    core = experiment.engine("a", script(initialize="os._exit(7)"), **APART).core()
    with pytest.raises(EngineFailed, match="its process ended with status 7 during initialize"):
        core.initialize()
    core.shutdown()


def test_a_death_between_two_steps_fails_the_next_one(experiment: Experiment) -> None:
    core = experiment.engine("a", script(initialize="tell()"), **APART).started()
    core.run_loop()
    [[process]] = told(experiment)
    os.kill(process, 9)
    with pytest.raises(EngineFailed, match="was ended by SIGKILL"):
        core.run_loop(2)
    core.shutdown()


def test_a_death_is_noticed_although_a_child_of_the_engine_keeps_the_connection_open(experiment: Experiment) -> None:
    fork = "if os.fork() == 0:\n    import time\n    time.sleep(60)\nos._exit(5)"
    core = experiment.engine("a", script(runLoop=fork), **APART).started()
    with pytest.raises(EngineFailed, match="ended with status 5"):
        core.run_loop(2)
    core.shutdown()


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["initialize", "runLoop", "reset", "shutdown"])
def test_an_engine_that_takes_longer_than_its_command_timeout_fails(method: str, experiment: Experiment) -> None:
    hang = "while True:\n    pass  # for ever"
    experiment.engine("a", script(**{method: hang}), EngineCommandTimeout=1.5)  # which the other commands keep to
    error = failure_of(experiment.core())
    late = f"engine 'a' took longer than EngineCommandTimeout, 1.5 s, for {method}; it was in a.py"
    assert str(error).startswith(late)
    assert error.file == "a.py"
    assert abs(error.line - line_of(experiment, "a.py", "pass  # for ever")) <= 1


def test_an_engine_that_is_in_time_does_not_notice_its_command_timeout(experiment: Experiment) -> None:
    core = experiment.engine("a", script(), EngineCommandTimeout=20).started()
    core.run_loop(50)
    core.shutdown()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_what_an_engine_has_started_ends_with_it(experiment: Experiment) -> None:
    start = "import subprocess\ntell(subprocess.Popen(['sleep', '600']).pid)"
    core = experiment.engine("a", script(initialize=start), **APART).started()
    [[_, started]] = told(experiment)
    assert psutil.pid_exists(started)
    core.shutdown()
    wait_until(lambda: not psutil.pid_exists(started) or psutil.Process(started).status() == psutil.STATUS_ZOMBIE)


def test_nothing_is_left_when_another_engine_cannot_be_initialised(experiment: Experiment) -> None:
    experiment.engine("a", script(initialize="while True: pass"), **APART)
    core = experiment.engine("b", script(initialize="1 / 0"), **APART).core()
    experiment.configuration["EngineConfigs"].reverse()
    core = experiment.core()
    with pytest.raises(EngineFailed, match="ZeroDivisionError"):
        core.initialize()
    core.shutdown()


def test_exit_handlers_of_an_engine_are_called(experiment: Experiment) -> None:
    source = script(initialize="import atexit\natexit.register(tell, 'at exit')")
    experiment.engine("a", source, **APART).started().shutdown()
    assert [rest for _, *rest in told(experiment)] == [["at exit"]]


def test_an_engine_does_not_outlive_a_program_that_is_killed(experiment: Experiment) -> None:
    experiment.engine("a", script(initialize="tell()"), **APART).core()
    program = (
        "import os, sys\nfrom nrp_simserver.cores.embedded import NrpCore\n"
        f"NrpCore(experiment_folder={str(experiment.folder)!r}).initialize()\nos.kill(os.getpid(), 9)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", program], env=environment, check=False, timeout=60)
    [[process]] = told(experiment)
    wait_until(lambda: not psutil.pid_exists(process))
