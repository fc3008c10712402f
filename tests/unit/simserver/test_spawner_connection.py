"""The interpreter that runs simulations, and how the ends of processes are told."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nrp_common.errors import SettingsError
from nrp_simserver.spawner_connection import check_interpreter, describe_exit


@pytest.mark.parametrize(
    ("exit_code", "words"),
    [
        (0, "ended with exit code 0"),
        (3, "ended with exit code 3"),
        (-9, "was killed by SIGKILL"),
        (-40, "was killed by signal 40"),
    ],
)
def test_ends_of_processes_are_told_in_words(exit_code: int, words: str) -> None:
    assert describe_exit(exit_code) == words


def test_interpreter_with_this_distribution_can_be_used() -> None:
    check_interpreter(Path(sys.executable))


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (None, "cannot be run: No such file or directory"),
        ("exit 1", "ended with exit code 1"),
        ("echo first >&2; echo ModuleNotFoundError: numpy >&2; exit 1", "ModuleNotFoundError: numpy"),
    ],
)
def test_interpreter_that_cannot_be_used_is_a_setting_error(tmp_path: Path, program: str | None, reason: str) -> None:
    python = tmp_path / "python"
    if program is not None:
        python.write_text(f"#!/bin/sh\n{program}\n")
        python.chmod(0o755)
    with pytest.raises(SettingsError) as refused:
        check_interpreter(python)
    assert f"NRP_PYTHON={python}" in str(refused.value)
    assert reason in str(refused.value)
