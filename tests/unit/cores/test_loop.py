"""The order of things within an iteration, and which engines and functions take part in it."""

from __future__ import annotations

import pytest

from tests.unit.cores.experiment import Experiment, forward, seen

TELL = """
@SimulationIteration(keyword="iteration")
@SimulationTime(keyword="time")
@TransceiverFunction("{engine}")
def {name}(time, iteration):
    seen.append(("{name}", time, iteration))
"""


def tell(name: str, engine: str) -> str:
    return TELL.format(name=name, engine=engine)


def test_the_first_iteration_is_at_0_before_any_engine_has_stepped(experiment: Experiment) -> None:
    experiment.engine("a").function("tell", tell("tell", "a")).started().run_loop()
    assert seen == [("tell", 0, 0), ("a", 10_000_000, None)]


def test_what_a_function_returns_at_t_is_read_in_the_step_that_starts_at_t(experiment: Experiment) -> None:
    core = experiment.engine("a").engine("b").function("forward", forward("a", "b")).started()
    core.run_loop(3)
    assert [inbox for engine, _, inbox in seen if engine == "b"] == [{"steps": 0}, {"steps": 1}, {"steps": 2}]


def test_an_iteration_happens_whenever_some_engine_ends_a_step(experiment: Experiment) -> None:
    experiment.engine("a", timestep=0.010).engine("b", timestep=0.015)
    core = experiment.status(
        """
        @SimulationTime(keyword="time")
        @StatusFunction()
        def status(time):
            seen.append(("iteration", time // 1_000_000))
            return False, []
        """
    ).started()
    iterations = []
    for _ in range(5):
        seen.clear()
        core.run_loop()
        iterations.append([time for name, time, *_ in seen if name == "iteration"])
    assert iterations == [[0], [10, 15], [20], [30], [40, 45]]


def test_slower_engines_are_served_first_then_as_configured(experiment: Experiment) -> None:
    experiment.engine("quick", timestep=0.01).engine("z", timestep=0.02).engine("a", timestep=0.02)
    core = experiment.started()
    core.run_loop(2)
    seen.clear()
    core.run_loop()
    assert [engine for engine, *_ in seen] == ["z", "a", "quick"]


def test_functions_of_an_engine_run_as_configured_whatever_their_names(experiment: Experiment) -> None:
    experiment.engine("a").function("z", tell("z", "a")).function("m", tell("m", "a")).function("b", tell("b", "a"))
    experiment.started().run_loop()
    assert [name for name, *_ in seen[:3]] == ["z", "m", "b"]


def test_a_function_runs_only_when_its_engine_is_due(experiment: Experiment) -> None:
    experiment.engine("quick", timestep=0.01).engine("slow", timestep=0.03)
    core = experiment.function("tell", tell("tell", "slow")).started()
    core.run_loop(7)
    assert [time for name, time, *_ in seen if name == "tell"] == [0, 30_000_000, 60_000_000]


def test_output_for_an_engine_that_is_not_due_waits_and_the_last_one_wins(experiment: Experiment) -> None:
    experiment.engine("quick", timestep=0.01).engine("slow", timestep=0.03)
    core = experiment.function("forward", forward("quick", "slow", linked="quick")).started()
    core.run_loop(7)
    assert [inbox for engine, _, inbox in seen if engine == "slow"] == [{"steps": 0}, {"steps": 3}, {"steps": 6}]


def test_a_function_that_is_not_active_does_not_run(experiment: Experiment) -> None:
    experiment.engine("a").function("tell", tell("tell", "a"), IsActive=False).started().run_loop()
    assert [name for name, *_ in seen] == ["a"]


def test_a_status_function_that_is_not_active_does_not_run(experiment: Experiment) -> None:
    status = {"Name": "status", "FileName": "missing.py", "IsActive": False}
    assert experiment.engine("a").started(StatusFunction=status).run_loop() == (False, [])


def test_preprocessing_functions_come_before_all_transceiver_functions(experiment: Experiment) -> None:
    preprocessing = tell("prepare", "b").replace("TransceiverFunction", "PreprocessingFunction")
    experiment.engine("a").engine("b").function("tell", tell("tell", "a")).function("prepare", preprocessing)
    experiment.started().run_loop()
    assert [name for name, *_ in seen] == ["prepare", "tell", "a", "b"]


PREPARE = """
@EngineDataPack(keyword="given", id=DataPackIdentifier("out", "a"))
@SimulationIteration(keyword="iteration")
@PreprocessingFunction("a")
def prepare(given, iteration):
    if iteration % 2:
        return []
    doubled = JsonDataPack("doubled", "a")
    doubled.data["steps"] = 2 * given.data["steps"]
    return [doubled]
"""

USE = """
@PreprocessedDataPack(keyword="doubled", id=DataPackIdentifier("doubled", "a"))
@TransceiverFunction("b")
def use(doubled):
    seen.append(("use", doubled.data["steps"], doubled.isUpdated()))
"""


def test_what_a_preprocessing_function_made_stays_in_the_cache_not_updated(experiment: Experiment) -> None:
    experiment.engine("a").engine("b").function("use", USE).function("prepare", PREPARE)
    experiment.started().run_loop(4)
    assert [told for told in seen if told[0] == "use"] == [
        ("use", 0, True),
        ("use", 0, False),
        ("use", 4, True),
        ("use", 4, False),
    ]


def test_a_preprocessing_function_cannot_use_the_output_of_another(experiment: Experiment) -> None:
    second = """
    @PreprocessedDataPack(keyword="doubled", id=DataPackIdentifier("doubled", "a"))
    @PreprocessingFunction("a")
    def second(doubled):
        seen.append(("second", doubled.isEmpty()))
    """
    experiment.engine("a").function("prepare", PREPARE).function("second", second).started().run_loop(3)
    assert [told for told in seen if told[0] == "second"] == [("second", True)] * 3


OVERWRITE = """
@EngineDataPack(keyword="out", id=DataPackIdentifier("out", "a"))
@SimulationIteration(keyword="iteration")
@PreprocessingFunction("a")
def overwrite(out, iteration):
    if iteration == 1:
        return []
    out.data["steps"] = out.data["steps"] + 100
    return [out]
"""

LOOK_AT = """
@{decorator}(keyword="out", id=DataPackIdentifier("out", "a"))
@{kind}("a")
def {name}(out):
    seen.append(("{name}", out.data["steps"], out.isUpdated()))
"""


@pytest.mark.parametrize("passing", ["value", "reference"])
def test_a_preprocessing_function_may_make_a_datapack_of_the_name_of_one_of_its_engine(
    passing: str, experiment: Experiment
) -> None:
    raw = LOOK_AT.format(decorator="EngineDataPack", kind="PreprocessingFunction", name="raw")
    made = LOOK_AT.format(decorator="PreprocessedDataPack", kind="TransceiverFunction", name="made")
    experiment.engine("a").function("overwrite", OVERWRITE).function("raw", raw).function("made", made)
    experiment.started(FunctionArgumentsPassingMethod=passing).run_loop(3)
    # Made anew at each iteration but the second, when it stays what it was.
    assert [told for told in seen if told[0] == "made"] == [
        ("made", 100, True),
        ("made", 100, False),
        ("made", 102, True),
    ]
    if passing == "value":  # by reference all see what one of them changes
        assert [told for told in seen if told[0] == "raw"] == [("raw", 0, True), ("raw", 1, True), ("raw", 2, True)]


def test_a_datapack_is_updated_only_in_the_iteration_in_which_it_was_fetched(experiment: Experiment) -> None:
    look = """
    @EngineDataPack(keyword="out", id=DataPackIdentifier("out", "slow"))
    @TransceiverFunction("quick")
    def look(out):
        seen.append(("look", out.isUpdated()))
    """
    experiment.engine("quick").engine("slow", timestep=0.03).function("look", look).started().run_loop(4)
    assert [told[1] for told in seen if told[0] == "look"] == [True, False, False, True]


def test_several_datapacks_of_an_engine_come_as_a_dict(experiment: Experiment) -> None:
    look = """
    @EngineDataPacks(keyword="packs", datapackNames=["out", "inbox"], engineName="a")
    @TransceiverFunction("a")
    def look(packs):
        seen.append({name: pack.data.json_type() for name, pack in packs.items()})
    """
    experiment.engine("a").function("look", look).started().run_loop()
    assert seen[0] == {"out": "object", "inbox": "null"}


CHANGE_AND_LOOK = """
@EngineDataPack(keyword="out", id=DataPackIdentifier("out", "a"))
@TransceiverFunction("a")
def {name}(out):
    seen.append(("{name}", out.data["steps"]))
    out.data["steps"] = "changed"
"""


@pytest.mark.parametrize(("passing", "second_sees"), [("value", 0), ("reference", "changed")])
def test_functions_share_their_inputs_only_when_passed_by_reference(
    passing: str, second_sees: object, experiment: Experiment
) -> None:
    experiment.engine("a").function("first", CHANGE_AND_LOOK.format(name="first"))
    experiment.function("second", CHANGE_AND_LOOK.format(name="second"))
    core = experiment.started(FunctionArgumentsPassingMethod=passing)
    core.run_loop()
    assert seen[:2] == [("first", 0), ("second", second_sees)]


def test_nested_data_passed_by_value_is_not_shared_either(experiment: Experiment) -> None:
    experiment.engine(
        "a",
        """
        class Script(EngineScript):
            def initialize(self):
                self._registerDataPack("out")
                self._setDataPack("out", {"list": [1]})
            def runLoop(self, timestep_ns):
                seen.append(self._getDataPack("out"))
        """,
    )
    append = """
    @EngineDataPack(keyword="out", id=DataPackIdentifier("out", "a"))
    @TransceiverFunction("a")
    def append(out):
        out.data["list"].append(2)
        seen.append(list(out.data["list"]))
    """
    experiment.function("first", append).function("second", append).started().run_loop()
    assert seen == [[1, 2], [1, 2], {"list": [1]}]


def test_all_functions_share_one_set_of_globals(experiment: Experiment) -> None:
    experiment.engine("a")
    experiment.function("first", "shared = []\n" + tell("first", "a").replace("seen", "shared"))
    second = """
    @TransceiverFunction("a")
    def second():
        seen.append(shared)
    """
    experiment.function("second", second)
    experiment.started().run_loop()
    assert seen[0] == [("first", 0, 0)]


def test_timesteps_are_exact(experiment: Experiment) -> None:
    # 0.1 + 0.2 and single precision both miss: after 3 steps of 0.1 s the slow engine has to be due.
    experiment.engine("quick", timestep=0.1).engine("slow", timestep=0.3)
    core = experiment.started()
    core.run_loop(3_000)
    assert [time for engine, time, _ in seen if engine == "slow"][-1] == 300 * 10**9
    assert core.time_ns == 300 * 10**9


def test_a_timestep_of_a_third_of_a_millisecond_does_not_drift(experiment: Experiment) -> None:
    core = experiment.engine("a", timestep=0.000333333).started()
    core.run_loop(1000)
    assert seen[-1][1] == 333_333_000
