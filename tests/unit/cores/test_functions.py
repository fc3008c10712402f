"""Files of functions: what the decorators accept, and what is refused when they are loaded."""

from __future__ import annotations

import pytest

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores.error_place import locate
from tests.unit.cores.experiment import Experiment, forward, seen


def fails_to_load(experiment: Experiment, source: str) -> str:
    """The error with which an experiment of an engine `a` and this function does not initialise."""
    core = experiment.engine("a").function("f", source).core()
    with pytest.raises(FunctionFailed) as failure:
        core.initialize()
    core.shutdown()
    return str(failure.value)


def test_a_file_without_a_function_is_refused(experiment: Experiment) -> None:
    assert "f.py defines no function decorated with" in fails_to_load(experiment, "def f(): pass\n")


@pytest.mark.parametrize("decorator", ["TransceiverFunction", "PreprocessingFunction"])
def test_a_function_linked_to_an_unknown_engine_is_refused(decorator: str, experiment: Experiment) -> None:
    message = fails_to_load(experiment, f"@{decorator}('nobody')\ndef f(): return []\n")
    assert message == (
        "f.py (Line 4): function 'f' is linked to engine 'nobody', which does not exist (engines are: a)"
    )


def test_a_function_that_asks_an_unknown_engine_is_refused(experiment: Experiment) -> None:
    assert "asks for datapack 'out' of engine 'nobody', which does not exist" in fails_to_load(
        experiment, forward("nobody", "a")
    )


def test_a_preprocessing_function_gets_datapacks_of_its_own_engine_only(experiment: Experiment) -> None:
    source = forward("b", "a").replace("TransceiverFunction", "PreprocessingFunction")
    experiment.engine("b")
    assert "gets datapacks of its own engine, 'a', only" in fails_to_load(experiment, source)


def test_a_preprocessing_function_returns_datapacks_of_its_own_engine_only(experiment: Experiment) -> None:
    source = forward("a", "b", linked="a").replace("TransceiverFunction", "PreprocessingFunction")
    core = experiment.engine("a").engine("b").function("f", source).started()
    with pytest.raises(FunctionFailed, match="returns datapacks of its own engine, 'a', only"):
        core.run_loop()


@pytest.mark.parametrize("parameters", ["", "other", "given, more"])
def test_a_function_whose_parameters_are_not_its_inputs_is_refused(parameters: str, experiment: Experiment) -> None:
    source = forward("a", "a").replace("forward(given)", f"forward({parameters})")
    assert "cannot be called with its inputs" in fails_to_load(experiment, source)


@pytest.mark.parametrize(
    ("decorators", "message"),
    [
        ("@TransceiverFunction('a')\n@SimulationTime(keyword='t')", "go above @TransceiverFunction"),
        ("@SimulationTime(keyword='t')", "go above @TransceiverFunction"),
        ("@SimulationTime(keyword='t')\n@SimulationIteration(keyword='t')\n@TransceiverFunction('a')", "keyword 't'"),
        ("@TransceiverFunction('a')\n@TransceiverFunction('a')", "goes below all other decorators"),
        ("@TransceiverFunction", "the engine's name has to be text"),
        ("@EngineDataPack(keyword='t', id='out')\n@TransceiverFunction('a')", "has to be a DataPackIdentifier"),
        ("@EngineDataPack(keyword='t')\n@TransceiverFunction('a')", "missing 1 required positional argument: 'id'"),
        ("@EngineDataPacks('t', 'out', 'a')\n@TransceiverFunction('a')", "datapackNames has to be a list of names"),
    ],
)
def test_decorators_used_wrongly_say_how_they_are_used(decorators: str, message: str, experiment: Experiment) -> None:
    assert message in fails_to_load(experiment, f"{decorators}\ndef f(t): return []\n")


def test_a_status_function_among_the_others_is_refused(experiment: Experiment) -> None:
    assert "is a status function" in fails_to_load(experiment, "@StatusFunction()\ndef f(): return False, []\n")


def test_a_status_function_has_to_be_one(experiment: Experiment) -> None:
    core = experiment.engine("a").status("@TransceiverFunction('a')\ndef f(): return []\n").core()
    with pytest.raises(FunctionFailed, match="here the configuration expects one that is status"):
        core.initialize()


def test_a_syntax_error_names_file_and_line(experiment: Experiment) -> None:
    assert fails_to_load(experiment, "def f(:\n").startswith("SyntaxError in f.py (Line 4)")


def test_a_file_that_raises_names_file_and_line(experiment: Experiment) -> None:
    assert fails_to_load(experiment, "import no_such_module\n").startswith("ModuleNotFoundError in f.py (Line 4)")


def test_a_function_that_raises_names_file_line_and_text(experiment: Experiment) -> None:
    core = experiment.engine("a").function("f", forward("a", "a").replace('["steps"]\n', '["paces"]\n')).started()
    with pytest.raises(FunctionFailed, match=r"KeyError in f\.py \(Line 9\): 'paces'") as failure:
        core.run_loop()
    assert locate(failure.value, experiment.folder).text == 'out.data["steps"] = given.data["paces"]'


def test_reading_the_data_of_an_empty_datapack_fails(experiment: Experiment) -> None:
    source = """
    @PreprocessedDataPack(keyword="made", id=DataPackIdentifier("made", "a"))
    @TransceiverFunction("a")
    def f(made):
        return [made] if made.data else []
    """
    core = experiment.engine("a").function("f", source).started()
    with pytest.raises(FunctionFailed, match=r"ValueError in f\.py \(Line 8\): datapack 'made' of engine 'a' is empty"):
        core.run_loop()


def test_a_function_may_return_nothing_at_all(experiment: Experiment) -> None:
    core = experiment.engine("a").function("f", "@TransceiverFunction('a')\ndef f(): pass\n").started()
    assert core.run_loop() == (False, [])


def test_annotations_mean_in_a_function_file_what_they_mean_in_python(experiment: Experiment) -> None:
    source = "def g(x: 1 + 1): pass\n@TransceiverFunction('a')\ndef f(): seen.append(g.__annotations__)\n"
    experiment.engine("a").function("f", source).started().run_loop()
    assert seen[0] == {"x": 2}


def test_a_decorated_function_can_still_be_called_as_written(experiment: Experiment) -> None:
    source = "@TransceiverFunction('a')\ndef f(): return []\nseen.append(f())\n"
    experiment.engine("a").function("f", source).started()
    assert seen == [[]]


@pytest.mark.parametrize("returned", ["[out]", "(out,)"])
def test_a_function_returns_its_datapacks_in_a_list_or_a_tuple(returned: str, experiment: Experiment) -> None:
    experiment.engine("a").function("f", forward("a", "a").replace("return [out]", f"return {returned}"))
    experiment.started().run_loop()
    assert seen == [("a", 10_000_000, {"steps": 0})]


@pytest.mark.parametrize("returned", ["True, [point]", "[True, [point]]", "True, (point,)"])
def test_a_status_function_returns_a_pair_of_whatever_sequences(returned: str, experiment: Experiment) -> None:
    source = f"""
    @StatusFunction()
    def status():
        point = JsonRawData()
        return {returned}
    """
    assert experiment.engine("a").status(source).started().run_loop() == (True, [None])


PASS_ON = """
@PreprocessedDataPack(keyword="made", id=DataPackIdentifier("made", "a"))
@{declaration}
def f(made):
    return {returned}
"""


@pytest.mark.parametrize("declaration", ["TransceiverFunction('a')", "PreprocessingFunction('a')"])
def test_a_datapack_that_nobody_made_cannot_be_passed_on(declaration: str, experiment: Experiment) -> None:
    source = PASS_ON.format(declaration=declaration, returned="[made]")
    core = experiment.engine("a").function("f", source).started()
    with pytest.raises(FunctionFailed, match=r"f\.py \(Line 5\): function 'f' returned datapack 'made'.* is empty"):
        core.run_loop()


def test_a_datapack_that_nobody_made_cannot_be_part_of_the_trajectory(experiment: Experiment) -> None:
    experiment.engine("a").status(PASS_ON.format(declaration="StatusFunction()", returned="(True, [made])"))
    core = experiment.started()
    with pytest.raises(FunctionFailed, match=r"returned data that cannot be sent: it is empty"):
        core.run_loop()
