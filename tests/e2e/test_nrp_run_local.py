"""What `nrp run --local` promises: the same experiment, in one process."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from nrp_simserver import processes
from tests.e2e.conftest import EXAMPLES, NRP


def run_local(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NRP, "run", "--local", str(folder), *arguments], capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(EXAMPLES / "two_engines", tmp_path / "experiment"))


def test_a_completed_run_exits_with_0_and_leaves_its_files_in_the_folder(folder: Path) -> None:
    ended = run_local(folder)
    assert ended.returncode == 0, ended.stderr
    assert "completed: 200.00 s simulated" in ended.stdout
    assert (folder / "main_script_0.log").exists()


def test_a_failed_run_exits_with_1_and_shows_the_place(tmp_path: Path) -> None:
    ended = run_local(Path(shutil.copytree(EXAMPLES / "failing_function", tmp_path / "experiment")))
    assert ended.returncode == 1
    assert "Error: ZeroDivisionError in look.py (Line 14): float division by zero" in ended.stderr
    assert "nrp_simserver" not in ended.stderr


def test_a_wrong_configuration_is_a_sentence(folder: Path) -> None:
    (folder / "simulation_config.json").write_text("{ no JSON")
    ended = run_local(folder)
    assert ended.returncode == 1
    assert "simulation_config.json" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_scripts_get_each_change_as_json(folder: Path) -> None:
    lines = [json.loads(line) for line in run_local(folder, "--json").stdout.splitlines() if line.startswith("{")]
    assert lines[-1]["state"] == "completed"
    assert lines[-1]["simulationTime"] == pytest.approx(200)


def test_a_run_over_its_time_counts_as_failed(folder: Path) -> None:
    (folder / "main_script.py").write_text("import time\ntry:\n    time.sleep(60)\nexcept Exception:\n    pass\n")
    ended = run_local(folder, "--timeout", "0.5")
    assert ended.returncode == 1
    assert "0.5 s" in ended.stderr


def test_an_interrupted_run_shuts_its_engines_down_and_exits_with_130(folder: Path) -> None:
    (folder / "main_script.py").write_text("print('running', flush=True)\nwhile True: nrp.run_loop()\n")
    configuration = json.loads((folder / "simulation_config.json").read_text())
    (folder / "simulation_config.json").write_text(json.dumps({**configuration, "SimulationTimeout": 0}))
    engine = next(iter(configuration["EngineConfigs"]))["PythonFileName"]
    with (folder / engine).open("a") as source:
        source.write("\n    def shutdown(self):\n        print('engines ended', flush=True)\n")
    running = subprocess.Popen([*NRP, "run", "--local", str(folder)], stdout=subprocess.PIPE, text=True)
    assert running.stdout is not None
    while running.stdout.readline().strip() != "running":
        assert running.poll() is None
    running.send_signal(signal.SIGINT)
    output, _ = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "engines ended" in output


LEAVES_THINGS_RUNNING = """
import atexit, subprocess, threading, time
atexit.register(lambda: print("said goodbye", flush=True))
threading.Thread(target=time.sleep, args=[600]).start()
program = subprocess.Popen(["sleep", "600"])
daemon = subprocess.check_output(["sh", "-c", "setsid sleep 600 >/dev/null & echo $!"], text=True)
print("left:", program.pid, daemon, flush=True)
"""


def test_what_a_script_leaves_running_ends_with_the_run(folder: Path) -> None:
    (folder / "main_script.py").write_text(LEAVES_THINGS_RUNNING)
    ended = run_local(folder)
    assert ended.returncode == 0, ended.stderr
    assert "said goodbye" in ended.stdout
    (left,) = re.findall(r"left: (\d+) (\d+)", ended.stdout)
    assert [pid for pid in map(int, left) if not processes.has_ended(pid)] == []
