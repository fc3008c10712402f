"""Each example keeps its promise, driven by its own main script on the embedded core."""

from __future__ import annotations

import csv
import importlib
import io
import json
import logging
import math
import runpy
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nrp_common.errors import FunctionFailed
from nrp_simserver.cores import DataPublisher
from nrp_simserver.cores.configuration import load_configuration
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.cores.error_place import locate
from nrp_simserver.server.clock import SimulationClock
from nrp_simserver.server.core_wrapper import NRPCoreWrapper, NRPSimulationTimeout
from nrp_simserver.server.gate import Gate
from tests.unit.cores.message_broker import FakeMessageBroker

EXAMPLES = Path(__file__).parents[3] / "examples"

DataPackMessage: Any = importlib.import_module("nrp_shims.nrp_protobuf.engine_grpc_pb2").DataPackMessage
BytesValue: Any = importlib.import_module("nrp_shims.nrp_protobuf.wrappers_pb2").BytesValue


def run_example(
    name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    publisher: DataPublisher | None = None,
    broker: FakeMessageBroker | None = None,
    **overrides: float,
) -> tuple[Path, SimulationClock]:
    """Run the example's main script to its end; its folder then, and the clock."""
    folder = Path(shutil.copytree(EXAMPLES / name, tmp_path / name))
    monkeypatch.chdir(folder)
    core = EmbeddedCore(
        folder,
        configuration=load_configuration(folder, overrides=overrides),
        publisher=publisher,
        connect=broker and broker.connect,
        rest=lambda _: None,
    )
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
    angles = [float(row["angle_deg"]) for row in table(folder / "pendulum.csv")]
    assert len(angles) == 1000
    assert max(map(abs, angles)) < 12


def test_the_pendulum_is_swung_up_and_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, clock = run_example("mujoco_pendulum", tmp_path, monkeypatch)
    assert clock.simulation_time == 12
    degrees = {float(row["time"]): float(row["degrees"]) for row in table(folder / "pendulum.csv")}
    assert abs(degrees[0.0]) == 180
    assert all(abs(angle) < 1 for time, angle in degrees.items() if time > 6)


def test_the_pendulums_motor_is_too_weak_to_lift_it_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run_example("mujoco_pendulum", tmp_path, monkeypatch)
    swings = [float(row["degrees"]) for row in table(folder / "pendulum.csv") if float(row["time"]) < 3]
    assert min(swings) < -20 < 20 < max(swings)


def test_a_pendulum_that_is_not_held_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="not upright"):
        run_example("mujoco_pendulum", tmp_path, monkeypatch, SimulationTimeout=1)


def test_the_neurons_fire_as_fast_as_theory_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run_example("nest_fi_curve", tmp_path, monkeypatch)
    rates = {float(row["current_pA"]): float(row["rate_Hz"]) for row in table(folder / "fi_curve.csv")}
    assert len(rates) == 15
    for picoamperes, rate in rates.items():
        assert rate == pytest.approx(rate_of_a_leaky_integrator(picoamperes), rel=0.03)


def rate_of_a_leaky_integrator(picoamperes: float) -> float:
    """In Hz: 10 ms of membrane time constant, 250 pF, 2 ms refractory, a threshold 15 mV above rest."""
    millivolts = picoamperes * 10 / 250
    return 0.0 if millivolts <= 15 else 1000 / (2 + 10 * math.log(millivolts / (millivolts - 15)))


def test_the_policy_learns_to_keep_the_pole_upright(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _ = run_example("gymnasium_cartpole", tmp_path, monkeypatch)
    seconds = [float(row["seconds"]) for row in table(folder / "learning.csv")]
    assert max(seconds[:5]) < 5
    assert seconds[-5:] == [10.0] * 5


def test_the_policy_keeps_the_pole_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, clock = run_example("cart_pole", tmp_path, monkeypatch)
    assert clock.simulation_time == 10
    assert "the pole is still up" in caplog.text


def test_policies_for_the_pole_become_better_by_training() -> None:
    train = runpy.run_path(str(EXAMPLES / "cart_pole" / "train.py"))["train"]
    policy, history = train(generations=4)
    assert set(policy) == {"angle", "position", "speed", "spin"}
    assert history[-1] > 2 * history[0]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# -- the robot -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [3, -3], ids=["left", "right"])
def test_the_robot_reaches_the_ball_on_either_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: int) -> None:
    world = (EXAMPLES / "braitenberg_husky" / "world.xml").read_text()
    assert 'pos="5 3 0.3"' in world
    moved = Path(shutil.copytree(EXAMPLES / "braitenberg_husky", tmp_path / "moved" / "braitenberg_husky"))
    (moved / "world.xml").write_text(world.replace('pos="5 3 0.3"', f'pos="5 {side} 0.3"'))
    monkeypatch.setattr(f"{__name__}.EXAMPLES", moved.parent)
    folder, clock = run_example("braitenberg_husky", tmp_path, monkeypatch)
    assert 2 < clock.simulation_time < 12
    (record,) = folder.glob("data/*/pose-0.data")
    _, _, pose = record.read_text().splitlines()[-1].partition(",")
    assert abs(json.loads(pose)["x"] - 5) < 0.9
    assert abs(json.loads(pose)["y"] - side) < 0.9


def test_the_robot_drives_the_same_way_again_after_a_reset(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(EXAMPLES / "braitenberg_husky", tmp_path / "experiment"))
    core = EmbeddedCore(folder)
    core.initialize()
    first = core.run_until_timeout()
    core.reset()
    assert core.run_until_timeout() == first
    core.shutdown()


def test_the_robot_does_not_find_a_ball_behind_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the light that leads it."""
    moved = Path(shutil.copytree(EXAMPLES / "braitenberg_husky", tmp_path / "moved" / "braitenberg_husky"))
    world = (moved / "world.xml").read_text()
    (moved / "world.xml").write_text(world.replace('pos="5 3 0.3"', 'pos="-15 0 0.3"'))
    monkeypatch.setattr(f"{__name__}.EXAMPLES", moved.parent)
    with pytest.raises(RuntimeError, match="has not found the ball"):
        run_example("braitenberg_husky", tmp_path, monkeypatch, SimulationTimeout=5)


def test_the_robot_streams_what_its_camera_sees_ten_times_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames: list[bytes] = []

    def publish(topic: str, payload: bytes, _qos: int, _retained: bool) -> None:
        if topic == "data/camera":
            frames.append(payload)

    _, clock = run_example("braitenberg_husky", tmp_path, monkeypatch, publisher=publish)
    assert len(frames) == pytest.approx(clock.simulation_time / 0.1, abs=1)
    first, last = np.asarray(picture_in(frames[0])), np.asarray(picture_in(frames[-1]))
    assert first.shape == (120, 160, 3)
    assert 20 < red_columns(first).size < red_columns(last).size / 5
    assert red_columns(first).max() < 80, "the ball is to the left at first"
    assert 60 < red_columns(last).mean() < 100, "and ahead in the end"


def picture_in(payload: bytes) -> Image.Image:
    message = BytesValue()
    assert DataPackMessage.FromString(payload).data.Unpack(message)
    with Image.open(io.BytesIO(message.value), formats=["JPEG"]) as picture:
        return picture.convert("RGB")


def red_columns(picture: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The columns of all red pixels."""
    red, green, blue = (picture[..., channel].astype(int) for channel in range(3))
    return np.nonzero((red > 90) & (red > 2 * green) & (red > 2 * blue))[1]


def test_the_robots_sensors_and_spikes_are_streamed_and_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed: list[str] = []
    folder, clock = run_example(
        "braitenberg_husky",
        tmp_path,
        monkeypatch,
        publisher=lambda topic, *_: streamed.append(topic),
        **{"EngineConfigs.EngineName:husky.EngineExtraConfigs.picture_every_s": 0},
    )
    (data,) = folder.glob("data/*")
    for name in ("rates", "light"):
        rows = [
            [float(cell) for cell in line.split(",")] for line in (data / f"{name}-0.data").read_text().splitlines()
        ]
        assert len(rows) == streamed.count(f"data/{name}") == pytest.approx(clock.simulation_time / 0.1, abs=1)
        _, _, left, right = rows[3]
        assert left > 1.5 * right > 0, f"{name}: the ball is to the left"
    assert sorted(file.name for file in data.iterdir()) == ["light-0.data", "pose-0.data", "rates-0.data"]


@pytest.mark.parametrize(("target", "place"), [(None, -1), (b'{"position": 3}', 3)], ids=["to and fro", "sent"])
def test_the_cart_goes_where_a_message_sends_it(
    target: bytes | None, place: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker = FakeMessageBroker()
    if target is not None:
        broker.retained["steered_cart/target"] = target
    _, clock = run_example("steered_cart", tmp_path, monkeypatch, broker=broker)
    assert clock.simulation_time == 30
    assert {topic for topic, _ in broker.published} == {"steered_cart/motion"}
    assert len(broker.published) == 300
    motion = json.loads(broker.published[-1][1])
    assert abs(motion["position"] - place) < 0.02
    assert max(abs(json.loads(payload)["sway"]) for _, payload in broker.published) < 0.5
