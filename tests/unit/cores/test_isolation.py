"""Engines that share a process do not notice each other."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest

from nrp_simserver.cores.embedded import generators
from tests.unit.cores.experiment import Experiment, seen

DRAWING = """
{imports}

class Script(EngineScript):
    def initialize(self):
        {seeding}

    def runLoop(self, timestep_ns):
        seen.append((self._name, {draw}))
"""

GENERATORS = {
    "random": ("import random", "random.seed({seed})", "random.random()"),
    "random, normal": ("import random", "random.seed({seed})", "random.gauss(0, 1)"),
    "numpy": ("import numpy as np", "np.random.seed({seed})", "float(np.random.random())"),
    "numpy, normal": ("import numpy as np", "np.random.seed({seed})", "float(np.random.standard_normal())"),
}


def drawing(kind: str, seed: int | None) -> str:
    imports, seeding, draw = GENERATORS[kind]
    return DRAWING.format(imports=imports, seeding="pass" if seed is None else seeding.format(seed=seed), draw=draw)


def drawn_alone(kind: str, seed: int, number: int) -> list[float]:
    generator, numbers = random.Random(seed), np.random.RandomState(seed)
    draw = {
        "random": generator.random,
        "random, normal": lambda: generator.gauss(0, 1),
        "numpy": lambda: float(numbers.random()),
        "numpy, normal": lambda: float(numbers.standard_normal()),
    }[kind]
    return [draw() for _ in range(number)]


@pytest.mark.parametrize("kind", GENERATORS)
def test_engines_that_seed_a_generator_draw_as_if_they_were_alone(kind: str, experiment: Experiment) -> None:
    experiment.engine("a", drawing(kind, 1)).engine("b", drawing(kind, 2)).engine("c", drawing(kind, 1))
    experiment.started().run_loop(700)  # more than the 624 words that the generator makes at once
    for name, seed in (("a", 1), ("b", 2), ("c", 1)):
        assert [value for engine, value in seen if engine == name] == drawn_alone(kind, seed, 700)


@pytest.mark.parametrize("kind", GENERATORS)
def test_an_engine_that_seeds_nothing_does_not_repeat_what_others_draw(kind: str, experiment: Experiment) -> None:
    experiment.engine("a", drawing(kind, None)).engine("b", drawing(kind, None)).engine("c", drawing(kind, 1))
    experiment.started().run_loop(50)
    values = [value for _, value in seen]
    assert len(set(values)) == len(values)


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_main_script_draws_as_if_there_were_no_engines(kind: str, experiment: Experiment) -> None:
    random.seed(5)
    np.random.seed(5)
    draw = {
        "random": random.random,
        "random, normal": lambda: random.gauss(0, 1),
        "numpy": lambda: float(np.random.random()),
        "numpy, normal": lambda: float(np.random.standard_normal()),
    }[kind]
    core = experiment.engine("a", drawing(kind, 1)).started()
    values = []
    for _ in range(5):
        values.append(draw())
        core.run_loop()
    assert values == drawn_alone(kind, 5, 5)


def test_functions_draw_from_a_generator_of_their_own(experiment: Experiment) -> None:
    source = """
    import random
    random.seed(3)

    @TransceiverFunction("a")
    def draw():
        seen.append(("function", random.random()))
    """
    experiment.engine("a", drawing("random", 1)).function("draw", source).started().run_loop(3)
    assert [value for name, value in seen if name == "function"] == drawn_alone("random", 3, 3)


NEIGHBOURLY = """
import shared
{more}

class Script(EngineScript):
    def initialize(self):
        shared.owner.append(self._name)

    def runLoop(self, timestep_ns):
        import shared as again
        assert again is shared
        seen.append((self._name, shared.owner))
"""


def test_engines_that_import_the_same_neighbour_each_have_their_own(experiment: Experiment) -> None:
    experiment.file("shared.py", "owner = []\n")
    source = NEIGHBOURLY.format(more="")
    experiment.engine("a", source).engine("b", source).started().run_loop(2)
    assert seen == [("a", ["a"]), ("b", ["b"])] * 2


def test_functions_have_their_own_neighbours_too(experiment: Experiment) -> None:
    experiment.file("shared.py", "owner = []\n")
    function = "import shared\n@TransceiverFunction('a')\ndef f():\n    seen.append(('function', shared.owner))\n"
    experiment.engine("a", NEIGHBOURLY.format(more="")).function("f", function).started().run_loop()
    assert seen == [("function", []), ("a", ["a"])]


def test_a_neighbour_imported_late_is_the_engines_own(experiment: Experiment) -> None:
    experiment.file("late.py", "count = 0\n")
    source = """
    class Script(EngineScript):
        def runLoop(self, timestep_ns):
            import late
            late.count += 1
            seen.append((self._name, late.count))
    """
    experiment.engine("a", source).engine("b", source).started().run_loop(2)
    assert seen == [("a", 1), ("b", 1), ("a", 2), ("b", 2)]


def test_a_neighbour_of_the_main_script_is_not_an_engines(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment.file("shared.py", "owner = []\n")
    monkeypatch.syspath_prepend(str(experiment.folder))
    import shared  # type: ignore[import-not-found]

    shared.owner.append("main script")
    experiment.engine("a", NEIGHBOURLY.format(more="")).started().run_loop()
    assert seen == [("a", ["a"])]
    assert sys.modules["shared"] is shared
    del sys.modules["shared"]


def test_a_package_of_the_experiment_can_be_imported(experiment: Experiment) -> None:
    (experiment.folder / "models").mkdir()
    experiment.file("models/__init__.py", "").file("models/neuron.py", "threshold = 1\n")
    source = NEIGHBOURLY.format(more="from models import neuron").replace("shared.owner))", "neuron.threshold))")
    experiment.file("shared.py", "owner = []\n").engine("a", source).engine("b", source).started().run_loop()
    assert seen == [("a", 1), ("b", 1)]


def test_files_in_subfolders_import_their_own_neighbours(experiment: Experiment) -> None:
    for folder in ("left", "right"):
        (experiment.folder / folder).mkdir()
        experiment.file(f"{folder}/side.py", f"name = {folder!r}\n")
    tell = (
        "from side import name\n\nclass Script(EngineScript):\n    def runLoop(self, _):\n        seen.append(name)\n"
    )
    function = "from side import name\n@TransceiverFunction('left/a')\ndef f():\n    seen.append('function ' + name)\n"
    experiment.engine("left/a", tell).engine("right/b", tell).function("right/f", function).started().run_loop()
    assert seen == ["function right", "left", "right"]


def test_an_engine_extends_the_path_of_imports_for_itself_only(experiment: Experiment) -> None:
    for folder in ("one", "two"):
        (experiment.folder / folder).mkdir()
        experiment.file(f"{folder}/parts.py", f"name = {folder!r}\n")
    source = """
    import sys
    sys.path.insert(0, "{folder}")

    class Script(EngineScript):
        def runLoop(self, timestep_ns):
            import parts
            seen.append(parts.name)
    """
    experiment.engine("a", source.format(folder="one")).engine("b", source.format(folder="two"))
    core = experiment.started()
    core.run_loop(2)
    core.shutdown()
    assert seen == ["one", "two"] * 2
    assert not {"one", "two"} & set(sys.path)


def test_an_engine_that_changes_its_working_directory_does_it_for_itself_only(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    (experiment.folder / "data").mkdir()
    source = """
    import os

    class Script(EngineScript):
        def initialize(self):
            {change}

        def runLoop(self, timestep_ns):
            seen.append((self._name, os.path.basename(os.getcwd())))
    """
    moves, stays = source.format(change='os.chdir("data")'), source.format(change="pass")
    function = "import os\n@TransceiverFunction('b')\ndef f():\n    seen.append(os.path.basename(os.getcwd()))\n"
    home = experiment.folder.name
    monkeypatch.chdir(experiment.folder.parent)
    core = experiment.engine("a", moves).engine("b", stays).function("f", function).started()
    core.run_loop(2)
    assert seen == [home, ("a", "data"), ("b", home)] * 2
    assert Path.cwd() == experiment.folder.parent


def test_nothing_of_an_experiment_is_left_behind(experiment: Experiment) -> None:
    experiment.file("shared.py", "owner = []\n").engine("a", NEIGHBOURLY.format(more=""))
    path, modules, folder = sys.path[:], set(sys.modules), Path.cwd()
    core = experiment.started()
    core.run_loop()
    core.shutdown()
    assert sys.path == path
    assert {name for name in set(sys.modules) - modules if "nrp_core" not in name} == set()
    assert Path.cwd() == folder


def test_generators_are_kept_apart_also_where_their_memory_cannot_be_looked_at(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generators.StandardGenerator, "_lies_as_expected", lambda self: False)
    monkeypatch.setattr(generators.NumpyGenerator, "_find_normal", lambda self: 0)
    for kind in GENERATORS:
        seen.clear()
        experiment.configuration.clear()
        core = experiment.engine("a", drawing(kind, 1)).engine("b", drawing(kind, 2)).started()
        core.run_loop(5)
        core.shutdown()
        for name, seed in (("a", 1), ("b", 2)):
            assert [value for engine, value in seen if engine == name] == drawn_alone(kind, seed, 5)
