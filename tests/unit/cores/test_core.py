"""The calls of a core: what they return, which states they need and lead to, what a reset does."""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from nrp_common.errors import CallNotAllowed, ConfigurationError, EngineFailed, EngineUnavailable, FunctionFailed
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.error_place import locate
from tests.unit.cores.experiment import ENGINE, Experiment, forward, seen

DONE_AT = """
@SimulationIteration(keyword="iteration")
@StatusFunction()
def status(iteration):
    point = JsonRawData()
    point.data["iteration"] = iteration
    return iteration in {iterations}, [point]
"""

FAILING = """
class Script(EngineScript):
    def initialize(self):
        pass

    def runLoop(self, timestep_ns):
        raise ArithmeticError("the sum of all evils")

    def shutdown(self):
        seen.append("shut down")
"""


def inboxes() -> list[Any]:
    return [inbox for _, _, inbox in seen]


# -- initialize ------------------------------------------------------------------------------------------------------


def test_initialize_returns_what_functions_ask_of_the_engines_in_order(experiment: Experiment) -> None:
    ask = """
    @EngineDataPack(keyword="b_out", id=DataPackIdentifier("out", "b"))
    @EngineDataPack(keyword="a_out", id=DataPackIdentifier("out", "a"))
    @EngineDataPack(keyword="a_inbox", id=DataPackIdentifier("inbox", "a"))
    @TransceiverFunction("a")
    def ask(a_out, a_inbox, b_out):
        pass
    """
    source = ENGINE.replace('{"steps": 0}', '{"of": self._name}')
    core = experiment.engine("b", source).engine("a", source).function("ask", ask).core()
    assert core.initialize() == [{"of": "b"}, None, {"of": "a"}]


def test_initialize_twice_is_not_allowed(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(CallNotAllowed, match="Can't process request"):
        core.initialize()


def test_a_core_that_was_shut_down_can_be_initialised_again(experiment: Experiment) -> None:
    core = experiment.engine("a").function("forward", forward("a", "a")).started()
    core.run_loop(2)
    core.shutdown()
    assert core.initialize() == [{"steps": 0}]
    seen.clear()
    core.run_loop()
    assert seen == [("a", 10_000_000, {"steps": 0})]


def test_an_engine_that_nothing_here_can_run_is_named(experiment: Experiment) -> None:
    experiment.configuration["EngineConfigs"] = [{"EngineName": "robot", "EngineType": "gazebo_grpc"}]
    with pytest.raises(EngineUnavailable, match="'robot' is of type gazebo_grpc"):
        experiment.core()


# -- run_loop --------------------------------------------------------------------------------------------------------


def test_run_loop_advances_by_smallest_timesteps(experiment: Experiment) -> None:
    core = experiment.engine("quick").engine("slow", timestep=0.02).started()
    assert core.timestep_ns == 10_000_000
    assert core.run_loop() == (False, [])
    core.run_loop(4)
    assert core.time_ns == 50_000_000


@pytest.mark.parametrize(
    ("iterations", "error"),
    [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("2", TypeError), (None, TypeError), ([1], TypeError)],
)
def test_run_loop_of_what_is_no_number_of_steps_is_an_error_and_changes_nothing(
    iterations: Any, error: type[Exception], experiment: Experiment
) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(error, match="a number of iterations"):
        core.run_loop(iterations)
    assert core.current_state() == "Initialized"
    assert seen == []


def test_run_loop_is_done_if_any_of_its_steps_was(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[1]")).started()
    done, trajectory = core.run_loop(3)
    assert done
    assert trajectory == [{"iteration": 0}, {"iteration": 1}, {"iteration": 2}]


def test_the_trajectory_is_what_was_gathered_since_it_was_last_returned(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[1, 3]")).started()
    assert core.run_loop() == (False, [])
    assert core.run_loop() == (True, [{"iteration": 0}, {"iteration": 1}])
    assert core.run_loop(2) == (True, [{"iteration": 2}, {"iteration": 3}])


def test_run_loop_before_initialize_is_not_allowed(experiment: Experiment) -> None:
    with pytest.raises(CallNotAllowed, match="Created"):
        experiment.engine("a").core().run_loop()


def test_states_follow_the_calls(experiment: Experiment) -> None:
    core = experiment.engine("a").core()
    states = [core.current_state()]
    for call in (core.initialize, core.run_loop, core.reset, core.shutdown):
        call()
        states.append(core.current_state())
    assert states == ["Created", "Initialized", "Stopped", "Initialized", "Created"]


# -- run_until_timeout -----------------------------------------------------------------------------------------------


def test_run_until_timeout_ends_at_the_timeout(experiment: Experiment) -> None:
    core = experiment.engine("a").started(SimulationTimeout=1)
    assert core.run_until_timeout() == (False, True, [])
    assert core.time_ns == 10**9
    assert core.run_until_timeout() == (False, True, [])
    assert core.time_ns == 10**9


def test_fractions_of_a_second_count_in_a_timeout(experiment: Experiment) -> None:
    core = experiment.engine("a").started(SimulationTimeout=0.05)
    assert core.timeout_ns == 50_000_000
    core.run_until_timeout()
    assert core.time_ns == 50_000_000


def test_a_timeout_of_0_is_none(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[500]")).started(SimulationTimeout=0)
    done, timed_out, trajectory = core.run_until_timeout()
    assert (done, timed_out, len(trajectory)) == (True, False, 501)


def test_done_in_the_last_step_is_done_and_timed_out(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[4]")).started(SimulationTimeout=0.05)
    assert core.run_until_timeout()[:2] == (True, True)


# -- reset -----------------------------------------------------------------------------------------------------------


def test_reset_hooks_see_the_old_time_and_datapacks_then_time_restarts(experiment: Experiment) -> None:
    hook = """
    def reset(self):
        seen.append(("reset", self._time_ns, self._getDataPack("out")))
"""
    core = experiment.engine("a", ENGINE + hook).started()
    core.run_loop(2)
    core.reset()
    core.run_loop()
    assert seen[2:] == [("reset", 20_000_000, {"steps": 2}), ("a", 10_000_000, None)]
    assert core.time_ns == 10_000_000


def test_reset_drops_what_waits_and_what_is_cached_and_keeps_what_engines_hold(experiment: Experiment) -> None:
    look = """
    @EngineDataPack(keyword="out", id=DataPackIdentifier("out", "slow"))
    @PreprocessedDataPack(keyword="made", id=DataPackIdentifier("made", "quick"))
    @TransceiverFunction("quick")
    def look(out, made):
        seen.append(("made", made.isEmpty()))
        for_slow = JsonDataPack("inbox", "slow")
        for_slow.data["from"] = "before the reset"
        return [for_slow]
    """
    make = """
    @SimulationTime(keyword="time")
    @PreprocessingFunction("quick")
    def make(time):
        return [JsonDataPack("made", "quick")] if time else []
    """
    experiment.engine("quick").engine("slow", timestep=0.03).function("make", make).function("look", look)
    core = experiment.started()
    core.run_loop(2)
    assert core.reset() == [{"steps": 1}]  # the step that was under way when the reset came has ended
    seen.clear()
    core.run_loop()
    assert seen[0] == ("made", True)


def test_reset_restarts_the_iteration_counter_and_the_trajectory(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[1]")).started()
    core.run_loop()
    core.reset()
    assert core.run_loop(2) == (True, [{"iteration": 0}, {"iteration": 1}])


def test_reset_returns_the_observations(experiment: Experiment) -> None:
    core = experiment.engine("a").function("forward", forward("a", "a")).started()
    core.run_loop(3)
    assert core.reset() == [{"steps": 3}]


# -- datapacks from outside ------------------------------------------------------------------------------------------


def test_a_datapack_from_outside_arrives_once_at_the_next_start_and_stays(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    core.set_json_datapack("inbox", "a", {"k": 1})
    core.run_loop(2)
    core.set_json_datapack("inbox", "a", {"k": 2})
    core.set_json_datapack("inbox", "a", {"k": 3})
    core.run_loop()
    assert inboxes() == [{"k": 1}, {"k": 1}, {"k": 3}]


def test_a_datapack_for_an_engine_that_is_not_due_waits(experiment: Experiment) -> None:
    core = experiment.engine("quick").engine("slow", timestep=0.03).started()
    core.run_loop()
    core.set_json_datapack("inbox", "slow", {"k": 1})
    core.run_loop(3)
    assert [inbox for engine, _, inbox in seen if engine == "slow"] == [None, {"k": 1}]


def test_datapacks_handed_in_before_a_reset_reach_every_engine_named(experiment: Experiment) -> None:
    core = experiment.engine("a").engine("b").started()
    core.run_loop()
    for name in ("a", "b"):
        core.set_json_datapack("inbox", name, {"for": name})
    core.reset()
    seen.clear()
    core.run_loop()
    assert inboxes() == [{"for": "a"}, {"for": "b"}]


def test_what_was_handed_in_is_a_copy(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    payload = {"list": [1]}
    core.set_json_datapack("inbox", "a", payload)
    payload["list"].append(2)
    core.run_loop()
    assert inboxes() == [{"list": [1]}]


def test_a_datapack_for_an_unknown_engine_is_an_error_at_once(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(ValueError, match="no engine 'b'; engines are: a"):
        core.set_json_datapack("inbox", "b", {})


def test_a_payload_without_a_json_form_is_an_error_at_once(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(TypeError):
        core.set_json_datapack("inbox", "a", {"k": object()})


def test_the_name_of_a_datapack_handed_in_is_text(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(TypeError, match="is text"):
        core.set_json_datapack(1, "a", {})  # type: ignore[arg-type]


def test_what_is_no_message_cannot_be_handed_in_as_one(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    with pytest.raises(TypeError, match="'inbox' has to be a protobuf message, not dict"):
        core.set_proto_datapack("inbox", "a", {})


# -- engines ---------------------------------------------------------------------------------------------------------


def test_an_engine_script_knows_its_name_its_configuration_and_its_datapacks(experiment: Experiment) -> None:
    experiment.engine(
        "a",
        """
        class Script(EngineScript):
            def initialize(self):
                self._registerDataPack("p")
                seen.append((self._getEngineName(), self._name, self._time_ns, self._getRegisteredDataPackNames()))
                seen.append(self._config)
        """,
        EngineExtraConfigs={"weights": [0.5]},
        OfMyOwn=1.5,
    )
    experiment.started()
    assert seen[0] == ("a", "a", 0, ["p"])
    assert seen[1]["EngineExtraConfigs"] == {"weights": [0.5]}
    assert seen[1]["EngineTimestep"] == 0.01
    assert seen[1]["OfMyOwn"] == 1.5


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ('self._registerDataPack("p"); self._registerDataPack("p")', "'p' is registered already"),
        ('self._getDataPack("q")', "'q' is not registered"),
    ],
)
def test_datapacks_are_registered_once_before_they_are_read(
    statement: str, message: str, experiment: Experiment
) -> None:
    experiment.engine("a", f"class Script(EngineScript):\n    def initialize(self):\n        {statement}\n")
    core = experiment.core()
    with pytest.raises(EngineFailed, match=message):
        core.initialize()


def test_a_datapack_that_was_never_set_is_null_and_not_empty(experiment: Experiment) -> None:
    look = """
    @EngineDataPack(keyword="inbox", id=DataPackIdentifier("inbox", "a"))
    @TransceiverFunction("a")
    def look(inbox):
        seen.append((inbox.isEmpty(), inbox.data.json_type()))
    """
    experiment.engine("a").function("look", look).started().run_loop()
    assert seen[0] == (False, "null")


def test_a_datapack_that_an_engine_does_not_register_is_named(experiment: Experiment) -> None:
    core = experiment.engine("a").function("forward", forward("a", "a").replace('"out"', '"nothing"')).core()
    with pytest.raises(EngineFailed, match=r"'nothing', which a.py does not register \(registered are: inbox, out\)"):
        core.initialize()


@pytest.mark.parametrize("source", ["x = 1\n", "class Script:\n    pass\n", "Script = 1\n"])
def test_an_engine_file_without_a_script_says_so(source: str, experiment: Experiment) -> None:
    core = experiment.engine("a", source).core()
    with pytest.raises(EngineFailed, match=r"a\.py defines no class Script"):
        core.initialize()


def test_engines_and_functions_run_in_the_experiments_folder(
    experiment: Experiment, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    tell = "import os\n@TransceiverFunction('a')\ndef tell():\n    seen.append(os.getcwd())\n"
    engine = "import os\nclass Script(EngineScript):\n    def runLoop(self, _):\n        seen.append(os.getcwd())\n"
    experiment.engine("a", engine).function("tell", tell).started().run_loop()
    assert seen == [str(experiment.folder)] * 2
    assert Path.cwd() == elsewhere


def test_steps_do_not_let_go_of_the_interpreter(experiment: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who does so in every step, for a moment, keeps other threads from ever getting their turn by demanding it."""
    monkeypatch.chdir(experiment.folder)  # as in a simulation server
    quiet = "class Script(EngineScript):\n    def runLoop(self, _):\n        pass\n"
    core = experiment.engine("a", quiet).engine("b", quiet).started()
    turns, is_over = [0], threading.Event()

    def take_turns() -> None:
        while not is_over.is_set():
            time.sleep(0.0001)
            turns[0] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(100)  # none is demanded
    other = threading.Thread(target=take_turns)
    other.start()
    try:
        time.sleep(0.01)
        turns_before = turns[0]
        for _ in range(20_000):
            core.run_loop()
        assert turns[0] == turns_before
    finally:
        is_over.set()
        sys.setswitchinterval(before)
        other.join()


# -- failures --------------------------------------------------------------------------------------------------------


def test_after_a_failure_only_shutdown_is_left(experiment: Experiment) -> None:
    core = experiment.engine("a", FAILING).started()
    with pytest.raises(EngineFailed, match=r"ArithmeticError in a.py \(Line 9\): the sum of all evils"):
        core.run_loop()
    assert core.current_state() == "Failed"
    for call in (core.run_loop, core.reset, core.run_until_timeout, core.initialize):
        with pytest.raises(CallNotAllowed, match="Failed"):
            call()
    core.shutdown()
    assert core.current_state() == "Created"
    assert seen == ["shut down"]


def test_shutdown_is_allowed_in_any_state_and_repeatedly(experiment: Experiment) -> None:
    core = experiment.engine("a").core()
    core.shutdown()
    core.initialize()
    core.shutdown()
    core.shutdown()
    assert core.current_state() == "Created"


def test_all_engines_are_shut_down_even_when_one_fails_at_it(experiment: Experiment) -> None:
    goodbye = "class Script(EngineScript):\n    def shutdown(self):\n        seen.append(self._name)\n        {}\n"
    core = experiment.engine("a", goodbye.format("1 / 0")).engine("b", goodbye.format("pass")).started()
    with pytest.raises(EngineFailed, match=r"ZeroDivisionError in a\.py"):
        core.shutdown()
    assert seen == ["a", "b"]


@pytest.mark.parametrize("statement", ["import sys; sys.exit(3)", "raise SystemExit"])
def test_an_engine_that_calls_exit_fails_and_ends_nothing_else(statement: str, experiment: Experiment) -> None:
    source = f"class Script(EngineScript):\n    def runLoop(self, timestep_ns):\n        {statement}\n"
    core = experiment.engine("a", source).started()
    with pytest.raises(EngineFailed, match=r"SystemExit in a\.py"):
        core.run_loop()


class StoppedFromOutside(BaseException):
    """As a simulation server raises it in the middle of a step."""


def test_a_step_that_is_ended_from_outside_leaves_a_core_that_can_be_reset(experiment: Experiment) -> None:
    experiment.engine("a", ENGINE + "        if self.steps == 2: raise seen[0]\n")
    seen.append(StoppedFromOutside())
    core = experiment.started()
    core.run_loop()
    with pytest.raises(StoppedFromOutside):
        core.run_loop()
    assert core.current_state() == "Stopped"
    core.reset()
    core.run_loop()
    assert core.time_ns == 10_000_000


def test_an_initialisation_that_is_ended_from_outside_leaves_only_shutdown(experiment: Experiment) -> None:
    first = "class Script(EngineScript):\n    def shutdown(self):\n        seen.append('shut down')\n"
    second = "class Script(EngineScript):\n    def initialize(self):\n        raise seen[0]\n"
    seen.append(StoppedFromOutside())
    core = experiment.engine("a", first).engine("b", second).core()
    with pytest.raises(StoppedFromOutside):
        core.initialize()
    with pytest.raises(CallNotAllowed, match="Failed"):
        core.run_loop()
    core.shutdown()
    assert seen[1:] == ["shut down"]


def test_a_wrong_configuration_is_an_error_before_anything_starts(experiment: Experiment) -> None:
    with pytest.raises(ConfigurationError):
        experiment.engine("a").core(SimulationTimeout="soon")


def test_a_missing_configuration_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file 'other\.json'"):
        EmbeddedCore(tmp_path, "other.json")


def test_an_error_that_data_of_an_engine_raises_when_it_is_read_has_its_place(experiment: Experiment) -> None:
    source = """
    class Treacherous(dict):
        def __len__(self):
            return 1
        def __iter__(self):
            raise LookupError("never ask")
        keys = __iter__

    """
    source += ENGINE.replace("\n", "\n    ").replace('{"steps": self.steps}', "Treacherous()")
    core = experiment.engine("a", source).function("forward", forward("a", "a")).started()
    core.run_loop()
    with pytest.raises(EngineFailed, match=r"LookupError in a\.py \(Line 8\): never ask"):
        core.run_loop()


@pytest.mark.parametrize("value", ["object()", "self.__dict__"])  # which contains itself
def test_data_that_cannot_be_sent_names_the_engine_and_the_datapack(value: str, experiment: Experiment) -> None:
    source = ENGINE.replace('{"steps": 0}', f'{{"steps": {value}}}')
    core = experiment.engine("a", source).function("forward", forward("a", "a")).core()
    with pytest.raises(EngineFailed, match="engine 'a': datapack 'out' cannot be sent: ") as failure:
        core.initialize()
    place = locate(failure.value, experiment.folder)
    assert (place.error, place.file) == (failure.value, "a.py")


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("return 5", "has to return a list of datapacks, it returned int"),
        ("return [5]", "has to return datapacks, one of them is int"),
        ("return [JsonDataPack('x', 'nobody')]", "returned datapack 'x' for engine 'nobody', which does not exist"),
        ("given.data['n'] = {}; given.data['n']['o'] = object(); given.engine_name = 'a'; return [given]", "cannot be"),
    ],
)
def test_a_function_that_returns_what_it_must_not_is_named(
    statement: str, message: str, experiment: Experiment
) -> None:
    source = forward("a", "a").replace('out = JsonDataPack("inbox", "a")', statement)
    core = experiment.engine("a").function("forward", source).started()
    with pytest.raises(FunctionFailed, match=message) as failure:
        core.run_loop()
    assert "forward.py (Line" in str(failure.value)


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ("True", r"has to return \(done, \[JsonRawData, ...\]\)"),
        ("(True, [5])", "has to return a list of raw data, one of them is int"),
    ],
)
def test_a_status_function_that_returns_what_it_must_not_is_named(
    result: str, message: str, experiment: Experiment
) -> None:
    core = experiment.engine("a").status(f"@StatusFunction()\ndef status():\n    return {result}\n").started()
    with pytest.raises(FunctionFailed, match=message):
        core.run_loop()


@pytest.mark.parametrize(
    ("method", "fault"),
    [
        ("def initialize(self, more)", "missing a required argument: 'more'"),
        ("def runLoop(self)", "too many positional"),
    ],
)
def test_an_engine_whose_method_cannot_be_called_is_refused_and_the_method_shown(
    method: str, fault: str, experiment: Experiment
) -> None:
    core = experiment.engine("a", f"class Script(EngineScript):\n    {method}:\n        pass\n").core()
    with pytest.raises(
        EngineFailed, match=rf"a\.py \(Line 4\): \w+ of class Script cannot be called: {fault}"
    ) as failure:
        core.initialize()
    assert locate(failure.value, experiment.folder).text == method + ":"


def test_an_error_that_never_passed_the_users_code_names_the_file_that_was_about_to_run(experiment: Experiment) -> None:
    core = experiment.engine("a", "class Script(EngineScript):\n    pass\n").started()
    with pytest.raises(EngineFailed, match=r"NotImplementedError in a\.py: .* has no method runLoop") as failure:
        core.run_loop()
    assert locate(failure.value, experiment.folder).file == "a.py"


def test_a_script_may_exchange_its_run_loop(experiment: Experiment) -> None:
    experiment.engine(
        "a",
        """
        class Script(EngineScript):
            def initialize(self):
                self.runLoop = self.first
            def first(self, timestep_ns):
                seen.append("first")
                self.runLoop = self.later
            def later(self, timestep_ns):
                seen.append("later")
        """,
    )
    experiment.started().run_loop(3)
    assert seen == ["first", "later", "later"]


@pytest.mark.parametrize("decorator", ["TransceiverFunction", "PreprocessingFunction"])
def test_data_of_a_function_that_has_no_json_form_names_function_and_datapack(
    decorator: str, experiment: Experiment
) -> None:
    source = f"""
    @{decorator}("a")
    def f():
        out = JsonDataPack("inbox", "a")
        out.data["nested"] = {{}}
        out.data["nested"]["object"] = object()
        return [out]
    """
    core = experiment.engine("a").function("f", source).started()
    with pytest.raises(FunctionFailed, match=r"f\.py \(Line 5\): function 'f' returned datapack 'inbox', which cannot"):
        core.run_loop()


def test_a_trajectory_that_has_no_json_form_names_the_function(experiment: Experiment) -> None:
    source = """
    @StatusFunction()
    def f():
        point = JsonRawData()
        point.data["nested"] = []
        point.data["nested"].append(object())
        return False, [point]
    """
    core = experiment.engine("a").status(source).started()
    with pytest.raises(FunctionFailed, match="function 'status' returned data that cannot be sent"):
        core.run_loop()


def test_a_datapack_goes_out_as_strict_json(experiment: Experiment) -> None:
    source = ENGINE.replace('{"steps": 0}', '{"steps": float("nan")}')
    core = experiment.engine("a", source).function("forward", forward("a", "a")).core()
    assert json.dumps(core.initialize(), allow_nan=False) == '[{"steps": null}]'


def test_a_datapack_is_read_as_its_engine_holds_it_after_the_last_step(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    core.run_loop(3)
    read = core.get_datapack("out", "a")
    assert read == {"steps": 3}
    read["steps"] = 7
    assert core.get_datapack("out", "a") == {"steps": 3}
    assert core.current_state() == "Stopped"


@pytest.mark.parametrize(
    ("datapack", "engine", "words"),
    [
        ("out", "b", "there is no engine 'b'; engines are: a"),
        ("in", "a", "datapack 'in', which a.py does not register"),
    ],
)
def test_a_datapack_that_cannot_be_read_is_named(
    experiment: Experiment, datapack: str, engine: str, words: str
) -> None:
    core = experiment.engine("a").started()
    with pytest.raises((ValueError, EngineFailed), match=words):
        core.get_datapack(datapack, engine)
    core.run_loop(1)


def test_a_run_until_done_takes_no_further_step(experiment: Experiment) -> None:
    core = experiment.engine("a").status(DONE_AT.format(iterations="[2]")).started()
    assert core.run_loop(10, until_done=True) == (True, [{"iteration": 0}, {"iteration": 1}, {"iteration": 2}])
    assert core.time_ns == 30_000_000


DRAW = """
import random

class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("drawn")
        self._setDataPack("drawn", random.random())

    def runLoop(self, timestep_ns):
        self._setDataPack("drawn", random.random())
"""


def test_random_numbers_follow_from_the_seed_from_the_initialisation_on(experiment: Experiment) -> None:
    experiment.engine("a", DRAW).engine("b", DRAW)

    def drawn(seed: int) -> list[float]:
        core = experiment.core()
        core.seed(seed)
        core.initialize()
        numbers = [core.get_datapack("drawn", name) for name in "ab"]
        core.run_loop(1)
        numbers += [core.get_datapack("drawn", name) for name in "ab"]
        core.shutdown()
        return numbers

    first = drawn(1)
    assert len(set(first)) == 4
    assert drawn(1) == first != drawn(2)


def test_a_seed_changes_neither_time_nor_state(experiment: Experiment) -> None:
    core = experiment.engine("a").started()
    core.run_loop(2)
    core.seed(1)
    assert (core.current_state(), core.time_ns) == ("Stopped", 20_000_000)
    core.run_loop(1)
    assert core.get_datapack("out", "a") == {"steps": 3}
