"""What `nrp run` promises: the main job in one go, told by its exit status."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.e2e.conftest import EXAMPLES, NRP, RunningStack


def example(name: str, folder: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / name, folder / name))


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*NRP, "run", *map(str, arguments)], capture_output=True, text=True, timeout=100, check=False)


def test_a_completed_run_exits_with_0_and_says_where_the_logs_are(tmp_path: Path) -> None:
    folder = example("two_engines", tmp_path)
    ended = run(folder)
    assert ended.returncode == 0, ended.stderr
    (archive,) = folder.glob("*.log.zip")
    assert str(archive) in ended.stdout
    assert "simulation_1.log" in zipfile.ZipFile(archive).namelist()


def test_a_failed_run_exits_with_1_and_names_the_place(tmp_path: Path) -> None:
    folder = example("failing_function", tmp_path)
    ended = run(folder)
    assert ended.returncode == 1
    assert "ZeroDivisionError in look.py (Line 14): float division by zero" in ended.stderr
    assert "return 1.0 / height" in ended.stderr
    assert list(folder.glob("*.log.zip"))


def test_a_run_against_a_stack_that_runs_leaves_it_running(tmp_path: Path, stack: RunningStack) -> None:
    folder = example("two_engines", tmp_path)
    ended = stack.nrp("run", str(folder), "--json")
    assert ended.returncode == 0, ended.stderr
    last = json.loads(ended.stdout.splitlines()[-1])
    assert last["state"] == "stopped"
    assert stack.get("/health").status_code == 200


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_stopped_cleanly_and_exits_with_130(
    tmp_path: Path, stack: RunningStack, signal_number: int
) -> None:
    folder = example("two_engines", tmp_path)
    (folder / "main_script.py").write_text("while True:\n    nrp.run_loop()\n")
    configuration = json.loads((folder / "simulation_config.json").read_text())
    configuration["SimulationTimeout"] = 0
    (folder / "simulation_config.json").write_text(json.dumps(configuration))
    running = subprocess.Popen(
        [*NRP, "run", str(folder), "--json", "--url", stack.url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    for line in running.stdout:
        if json.loads(line)["state"] == "started":
            break
    running.send_signal(signal_number)
    output, complaint = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "Interrupted" in complaint
    assert json.loads(output.splitlines()[-1])["state"] == "stopped"
    assert list(folder.glob("*.log.zip"))


def test_a_run_over_its_time_is_stopped_and_counts_as_failed(tmp_path: Path, stack: RunningStack) -> None:
    folder = example("two_engines", tmp_path)
    (folder / "main_script.py").write_text("import time\nwhile True:\n    time.sleep(60)\n")
    ended = stack.nrp("run", str(folder), "--timeout", "0.5")
    assert ended.returncode == 1
    assert "0.5 s" in ended.stderr


@pytest.mark.parametrize(
    "arguments", [["no/such/folder"], [], ["--broker", "nonsense", "."], ["--timeout", "soon", "."]]
)
def test_bad_usage_exits_with_2(arguments: list[str]) -> None:
    assert run(*arguments).returncode == 2
