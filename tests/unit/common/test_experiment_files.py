from __future__ import annotations

import pytest

from nrp_common.errors import InvalidName
from nrp_common.experiment_files import checked_experiment_id, checked_path, is_left_out

NAMES = ["a", "a.b", "..a", "...", " ", "ümläut", "日本", "%2e%2e", "a\\b", "-", "x" * 255, "é" * 127]
NO_NAMES = ["", ".", "..", "a\0b", "a\nb", "\x7f", "x" * 256, "é" * 128, "\ud800", "�", "x" * 10_000]


@pytest.mark.parametrize("name", NAMES)
def test_an_experiment_and_a_file_can_have_this_name(name: str) -> None:
    assert checked_experiment_id(name) == checked_path(name) == name


@pytest.mark.parametrize("name", NO_NAMES)
def test_neither_an_experiment_nor_a_part_of_a_path_can_have_this_name(name: str) -> None:
    for check, tried in [
        (checked_experiment_id, name),
        (checked_path, name),
        (checked_path, f"folder/{name}"),
        (checked_path, f"{name}/file"),
    ]:
        with pytest.raises(InvalidName) as error:
            check(tried)
        assert len(str(error.value)) < 1000
        assert str(error.value).isprintable()


def test_a_path_has_several_levels_and_an_experiment_one() -> None:
    assert checked_path("a/b/c") == "a/b/c"
    with pytest.raises(InvalidName, match="holds a slash"):
        checked_experiment_id("a/b")


def test_a_path_has_an_end() -> None:
    assert checked_path("/".join(["d"] * 64))
    with pytest.raises(InvalidName, match="64 folders deep"):
        checked_path("/".join(["d"] * 65))


@pytest.mark.parametrize(
    "path",
    [
        "main.log",
        ".console_output.log",
        "sub/main.log",
        "2026-11-24_10-00-00_simulation_1.log.zip",
        "2026-11-24_10-00-00_simulation_12.data.zip",
        "simulation_1.data.zip",
        ".main.py.swp",
        "logs/anything",
        "sub/logs/deep/anything",
        "__pycache__/a.pyc",
        "sub/__pycache__/a.pyc",
    ],
)
def test_a_run_does_without(path: str) -> None:
    assert is_left_out(path)


@pytest.mark.parametrize(
    "path", ["main.py", "log", "main.log.py", "catalog/x", "logs", "my_logs/x", "data.zip", "simulation_x.data.zip"]
)
def test_a_run_needs(path: str) -> None:
    assert not is_left_out(path)


def test_a_folder_of_logs_is_left_out_and_a_folder_called_like_a_log_is_not() -> None:
    assert is_left_out("sub/logs", is_folder=True)
    assert is_left_out("__pycache__", is_folder=True)
    assert not is_left_out("old.log", is_folder=True)
