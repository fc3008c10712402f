"""The interpreter that runs simulations."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nrp_common.errors import SettingsError
from nrp_simserver.placement.local.code_version import code_version
from nrp_simserver.placement.local.spawners import version_run_by


def test_interpreter_with_this_distribution_can_be_used() -> None:
    assert version_run_by(Path(sys.executable)) == code_version()


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
        version_run_by(python)
    assert f"NRP_PYTHON={python}" in str(refused.value)
    assert reason in str(refused.value)
