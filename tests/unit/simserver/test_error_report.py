"""What the author of an experiment finds about an error in the log."""

from __future__ import annotations

from pathlib import Path

import pytest

from nrp_common.errors import EngineUnavailable
from nrp_simserver.server.error_report import print_traceback


def test_what_the_backend_finds_wrong_itself_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineUnavailable) as raised:
        raise EngineUnavailable("engine 'arm' needs the package mujoco")
    print_traceback(raised.value, tmp_path)
    assert capsys.readouterr().err == "engine 'arm' needs the package mujoco\n"


def test_what_the_experiment_does_wrong_is_a_traceback_from_its_files_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "script.py"
    script.write_text("def divide(by):\n    return 1 / by\n\ndivide(0)\n")
    with pytest.raises(ZeroDivisionError) as raised:
        exec(compile(script.read_text(), str(script), "exec"), {})
    print_traceback(raised.value, tmp_path)
    printed = capsys.readouterr().err
    assert "return 1 / by" in printed
    assert __file__ not in printed
