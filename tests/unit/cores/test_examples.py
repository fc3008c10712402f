"""Each example keeps its promise, driven by its own main script on the embedded core."""

from __future__ import annotations

import csv
import logging
import shutil
from pathlib import Path

import pytest

from nrp_common.errors import FunctionFailed
from nrp_simserver.clock import SimulationClock
from nrp_simserver.core_wrapper import NRPCoreWrapper, NRPSimulationTimeout
from nrp_simserver.cores.configuration import load_configuration
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.error_place import locate
from nrp_simserver.gate import Gate

EXAMPLES = Path(__file__).parents[3] / "examples"


def run_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **overrides: float
) -> tuple[Path, SimulationClock]:
    """Run the example's main script to its end; its folder then, and the clock."""
    folder = Path(shutil.copytree(EXAMPLES / name, tmp_path / name))
    monkeypatch.chdir(folder)
    core = EmbeddedCore(folder, configuration=load_configuration(folder, overrides=overrides))
    core.initialize()
    gate, clock = Gate(), SimulationClock()
    gate.open()
    script = {
        "nrp": NRPCoreWrapper(core, gate, clock),
        "NRPSimulationTimeout": NRPSimulationTimeout,
        "file_logger": logging.getLogger(name),
    }
    try:
        exec(compile((folder / "main_script.py").read_text(), "main_script.py", "exec"), script)
    finally:
        core.shutdown()
    return folder, clock


@pytest.mark.parametrize("folder", sorted(path.parent for path in EXAMPLES.glob("*/simulation_config.json")), ids=str)
def test_every_example_says_in_its_main_script_what_it_is(folder: Path) -> None:
    assert (folder / "main_script.py").read_text().startswith("# ")
    assert load_configuration(folder).name == folder.name
    assert load_configuration(folder).description


def test_the_thermostat_keeps_the_room_warm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, clock = run_example("two_engines", tmp_path, monkeypatch)
    assert clock.simulation_time == 200
    degrees = float(capsys.readouterr().out.rsplit(" degrees")[0].rsplit(" ")[-1])
    assert 19.5 < degrees < 21.5


def test_the_vehicle_arrives_before_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, clock = run_example("three_rates", tmp_path, monkeypatch)
    assert clock.simulation_time < 60
    assert "arrived at 99.9" in caplog.text


def test_the_failing_function_fails_at_its_faulty_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FunctionFailed) as failure:
        run_example("failing_function", tmp_path, monkeypatch)
    place = locate(failure.value, tmp_path / "failing_function")
    assert place.file == "look.py"
    assert place.text == "return 1.0 / height"


def test_the_neurons_keep_the_pendulum_within_12_degrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = run_example("spiking_pendulum", tmp_path, monkeypatch, SimulationTimeout=10)
    assert clock.simulation_time == 10
    with (folder / "pendulum.csv").open() as file:
        angles = [float(row["angle_deg"]) for row in csv.DictReader(file)]
    assert len(angles) == 1000
    assert max(map(abs, angles)) < 12


@pytest.mark.parametrize("side", [3, -3], ids=["left", "right"])
def test_the_robot_reaches_the_ball_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    world = (EXAMPLES / "braitenberg_husky" / "world.xml").read_text()
    assert 'pos="5 3 0.3"' in world
    moved = Path(shutil.copytree(EXAMPLES / "braitenberg_husky", tmp_path / "moved" / "braitenberg_husky"))
    (moved / "world.xml").write_text(world.replace('pos="5 3 0.3"', f'pos="5 {side} 0.3"'))
    monkeypatch.setattr(f"{__name__}.EXAMPLES", moved.parent)
    folder, clock = run_example("braitenberg_husky", tmp_path, monkeypatch)
    assert 2 < clock.simulation_time < 20
    with (folder / "track.csv").open() as track:
        *_, last = csv.DictReader(track)
    assert abs(float(last["x_m"]) - 5) < 1
    assert abs(float(last["y_m"]) - side) < 1.1
