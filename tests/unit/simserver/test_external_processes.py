"""Programs beside an experiment: started with it, ended with it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from nrp_common.errors import ExperimentError
from nrp_simserver.cores.configuration import ExternalProcess
from nrp_simserver.server.external_processes import ExternalProcesses
from tests.waiting import wait_until


def program(command: str, *arguments: str, name: str = "beside", **more: object) -> ExternalProcess:
    return ExternalProcess.model_validate(
        {"ProcName": name, "ProcCmd": command, "ProcStartParams": list(arguments), **more}
    )


@pytest.fixture
def external() -> Iterator[ExternalProcesses]:
    external = ExternalProcesses()
    yield external
    external.end()


def children() -> list[psutil.Process]:
    return [each for each in psutil.Process().children(recursive=True) if each.status() != psutil.STATUS_ZOMBIE]


def test_program_runs_in_the_experiments_folder_with_its_environment(
    external: ExternalProcesses, tmp_path: Path
) -> None:
    command = program("sh", "-c", 'echo "$PWD $ROBOT" > said; sleep 600', EnvParams=["ROBOT=hbp arm"])
    external.start([command], tmp_path)
    said = tmp_path / "said"
    wait_until(lambda: said.exists() and said.read_text() == f"{tmp_path} hbp arm\n")
    external.check()


def test_ended_programs_take_along_what_they_started(external: ExternalProcesses, tmp_path: Path) -> None:
    before = set(children())
    external.start([program("sh", "-c", "sleep 600 & sleep 600 & wait")], tmp_path)
    wait_until(lambda: len(set(children()) - before) == 3)
    external.end()
    wait_until(lambda: not set(children()) - before)


def test_program_that_does_not_end_is_killed(
    external: ExternalProcesses, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nrp_simserver.server.external_processes.ENDING_S", 0.1)
    before = set(children())
    deaf = "trap '' TERM; touch deaf; while true; do sleep 1; done"
    external.start([program("sh", "-c", deaf, name="deaf")], tmp_path)
    wait_until((tmp_path / "deaf").exists)
    external.end()
    wait_until(lambda: not set(children()) - before)
    assert "'deaf' did not end when asked to" in caplog.text


def test_program_that_is_missing_is_named(external: ExternalProcesses, tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match=r"'beside' cannot be started: /no/such --flag: No such file"):
        external.start([program("/no/such", "--flag")], tmp_path)


@pytest.mark.parametrize(
    ("script", "ending"),
    [
        ("exit 3", "ended with status 3"),
        ("kill -9 $$", "was ended by SIGKILL"),
        ("kill -PIPE $$", "was ended by SIGPIPE"),
    ],
)
def test_program_that_fails_at_once_is_named_with_how_it_ended(
    external: ExternalProcesses, tmp_path: Path, script: str, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nrp_simserver.server.external_processes.SETTLING_S", 30.0)  # on a busy machine
    with pytest.raises(ExperimentError, match=f"'beside' {ending}"):
        external.start([program("sh", "-c", script)], tmp_path)


def test_program_dies_with_whoever_started_it(tmp_path: Path) -> None:
    source = """
import os, sys, time
from pathlib import Path
from nrp_simserver.cores.configuration import ExternalProcess
from nrp_simserver.server.external_processes import ExternalProcesses

start = ["-c", "echo $$ > new; mv new pid; exec sleep 600"]
beside = ExternalProcess.model_validate({"ProcName": "beside", "ProcCmd": "sh", "ProcStartParams": start})
ExternalProcesses().start([beside], Path.cwd())
while not Path("pid").exists():
    time.sleep(0.01)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", source], cwd=tmp_path, check=False)
    assert ended.returncode == -signal.SIGKILL
    wait_until(lambda: not psutil.pid_exists(int((tmp_path / "pid").read_text())))


@pytest.mark.alone
def test_program_that_is_done_quickly_is_no_error(external: ExternalProcesses, tmp_path: Path) -> None:
    started_at = time.monotonic()
    external.start([program("true")], tmp_path)
    external.check()
    assert time.monotonic() - started_at < 0.2
