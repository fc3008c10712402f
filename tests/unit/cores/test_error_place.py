"""Where in an experiment's own files an exception is said to come from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nrp_common.errors import ConfigurationError, CoreLost, EngineFailed, ExperimentError, FunctionFailed
from nrp_simserver.cores.error_place import ErrorPlace, locate, own_traceback, place_told


def place_of(folder: Path, source: str, file: str = "script.py") -> ErrorPlace:
    """Where the error of this file of an experiment in `folder` is located."""
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text(source)
    try:
        exec(compile(source, str(path), "exec"), {"__name__": "script"})
    except BaseException as error:  # noqa: BLE001  whatever it raises is what is looked at
        return locate(error, folder)
    raise AssertionError("it raised nothing")


def test_the_deepest_frame_inside_the_experiment_is_found(tmp_path: Path) -> None:
    place = place_of(tmp_path, "import json\n\ndef read():\n    json.loads('{')\n\nread()\n")
    assert (place.file, place.line, place.text, place.offset) == ("script.py", 4, "json.loads('{')", -1)
    assert place.describe().startswith("JSONDecodeError in script.py (Line 4): Expecting property name")


@pytest.mark.parametrize(
    "statement",
    [
        "1 / 0",
        "{}['k']",
        "[][0]",
        "raise ValueError",
        "raise KeyboardInterrupt",
        "undefined",
        "import undefined_module",
    ],
)
def test_every_exception_has_a_place(statement: str, tmp_path: Path) -> None:
    place = place_of(tmp_path, f"# a comment\n{statement}\n")
    assert (place.file, place.line, place.text) == ("script.py", 2, statement)


def test_a_syntax_error_has_its_own_place_and_column(tmp_path: Path) -> None:
    place = place_of(tmp_path, "x = 1\ny = (2\n")
    assert (place.file, place.line, place.text, place.offset) == ("script.py", 2, "y = (2", 5)


def test_a_syntax_error_in_an_imported_file_is_that_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "neighbour_with_fault.py").write_text("def f(:\n")
    place = place_of(tmp_path, "import neighbour_with_fault\n")
    assert (place.file, place.line) == ("neighbour_with_fault.py", 1)


def test_files_in_subfolders_are_named_by_their_path(tmp_path: Path) -> None:
    assert place_of(tmp_path, "1 / 0\n", "engines/brain.py").file == "engines/brain.py"


def test_an_error_while_another_was_handled_is_the_one_that_counts(tmp_path: Path) -> None:
    place = place_of(tmp_path, "try:\n    1 / 0\nexcept ZeroDivisionError:\n    {}['k']\n")
    assert (place.line, type(place.error)) == (4, KeyError)


def test_what_the_core_wraps_around_an_exception_is_looked_through(tmp_path: Path) -> None:
    def raise_wrapped() -> None:
        try:
            exec(compile("1 / 0", str(tmp_path / "engine.py"), "exec"))
        except ZeroDivisionError as error:
            raise EngineFailed("an engine failed") from error

    (tmp_path / "engine.py").write_text("1 / 0")
    place = locate(error_of(raise_wrapped), tmp_path)
    assert (place.file, place.line, type(place.error)) == ("engine.py", 1, ZeroDivisionError)


def test_an_error_about_a_file_has_its_place_there_whoever_made_the_call(tmp_path: Path) -> None:
    (tmp_path / "f.py").write_text("# a function\n@TransceiverFunction('nobody')\n")

    def script() -> None:
        (tmp_path / "script.py").write_text("run_loop()")
        exec(compile("run_loop()", str(tmp_path / "script.py"), "exec"), {"run_loop": fail})

    def fail() -> None:
        raise FunctionFailed("linked to nobody", file="f.py", line=2)

    place = locate(error_of(script), tmp_path)
    assert (place.file, place.line, place.text) == ("f.py", 2, "@TransceiverFunction('nobody')")


def test_an_error_about_a_file_that_is_missing_names_it(tmp_path: Path) -> None:
    place = locate(ConfigurationError("there is none", file="simulation_config.json"), tmp_path)
    assert (place.file, place.line, place.text) == ("simulation_config.json", 0, "")


def test_an_engines_error_without_a_place_still_names_the_engine(tmp_path: Path) -> None:
    error = EngineFailed("engine 'a': TypeError: runLoop() takes 1 positional argument")
    error.__cause__ = TypeError("runLoop() takes 1 positional argument")
    place = locate(error, tmp_path)
    assert (place.error, place.file) == (error, "")


def test_an_error_outside_of_the_experiment_has_no_place(tmp_path: Path) -> None:
    place = locate(error_of(lambda: int("x")), tmp_path)
    assert (place.file, place.line, place.text) == ("", 0, "")
    assert place.describe() == "ValueError: invalid literal for int() with base 10: 'x'"


def test_a_file_without_a_source_is_not_the_experiments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    place = place_of(tmp_path, "exec(compile('1 / 0', 'numpy/random/mtrand.pyx', 'exec'))\n")
    assert place.file == "script.py"


def error_of(call: Callable[[], object]) -> BaseException:
    with pytest.raises(BaseException) as raised:
        call()
    return raised.value


def test_an_exception_that_cannot_say_anything_has_a_place_all_the_same(tmp_path: Path) -> None:
    source = "class Mute(Exception):\n    def __str__(self):\n        return 1 / 0\nraise Mute\n"
    assert place_of(tmp_path, source).describe() == "Mute in script.py (Line 4): <exception str() failed>"


@pytest.mark.parametrize("wrapper", [EngineFailed, FunctionFailed])
def test_a_file_that_python_will_not_even_parse_is_named_and_its_syntax_at_fault(
    wrapper: type[ExperimentError], tmp_path: Path
) -> None:
    try:
        try:
            compile(b"x = 1\0", "<file>", "exec")
        except SyntaxError as error:
            raise wrapper("a NUL", file="engine.py") from error
    except ExperimentError as error:
        place = locate(error, tmp_path)
    assert place.describe() == "SyntaxError in engine.py: source code string cannot contain null bytes"


def test_what_says_a_whole_array_is_told_shortened(tmp_path: Path) -> None:
    told = place_of(tmp_path, "raise ValueError('x' * 1_000_000)\n").describe()
    assert len(told) < 5_000
    assert told.endswith("xxx ... (of 1000000 characters)")


def test_what_is_no_valid_unicode_is_told_all_the_same(tmp_path: Path) -> None:
    told = place_of(tmp_path, "raise FileNotFoundError('no file \\udcff.csv')\n").describe()
    assert told == "FileNotFoundError in script.py (Line 1): no file \\udcff.csv"
    assert told.encode()


TRACE = """Traceback (most recent call last):
  File "{folder}/tf_1.py", line 4, in move
  File "/usr/lib/python3/json/__init__.py", line 9, in loads
KeyError: 1
"""


@pytest.mark.parametrize(
    ("text", "place"),
    [
        (TRACE, ("tf_1.py", 4)),
        ('File "tf_1.py", line 4, in move\nFile "deep/tf_2.py", line 7, in helper', ("deep/tf_2.py", 7)),
        ("SyntaxError: invalid syntax (tf_1.py, line 12)", ("tf_1.py", 12)),
        ("the engine fell over", ("", 0)),
        ('File "/etc/passwd", line 4', ("", 0)),
        ('File "../tf_1.py", line 4', ("", 0)),
        ('File "gone.py", line 4', ("", 0)),
        ('File "' + "x" * 5000 + '", line 4', ("", 0)),
        ('File "tf_1.py\0", line 4', ("", 0)),
    ],
    ids=["traceback", "deepest", "syntax", "none", "elsewhere", "outside", "gone", "too long", "NUL"],
)
def test_the_place_that_another_process_tells_is_found_in_what_it_says(
    text: str, place: tuple[str, int], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    for name in ("tf_1.py", "deep/tf_2.py"):
        (tmp_path / name).touch()
    assert place_told(text.format(folder=tmp_path), tmp_path) == place


def test_an_error_of_the_backend_itself_is_shown_with_the_lines_of_the_experiment_only(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("def go():\n    nrp()\ngo()\n")

    def nrp() -> None:
        raise CoreLost("NRPCoreSim is gone")

    with pytest.raises(CoreLost) as caught:
        exec(compile(script.read_text(), str(script), "exec"), {"nrp": nrp})
    shown = own_traceback(caught.value, tmp_path).splitlines()
    assert [line.strip() for line in shown if line.startswith("  File")] == [
        f'File "{script}", line 3, in <module>',
        f'File "{script}", line 2, in go',
    ]
    assert shown[-1] == "NRPCoreSim is gone"
