"""py_sim engines: real MuJoCo and Gymnasium in this process."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nrp_common.errors import EngineFailed, EngineUnavailable
from tests.unit.cores.experiment import SIMULATOR_IMPORTS, Experiment, seen

WORLD = """
<mujoco>
  <option timestep="0.002"/>
  <worldbody>
    <body name="arm">
      <joint name="hinge" type="hinge" axis="0 1 0"/>
      <geom name="rod" type="capsule" fromto="0 0 0 0 0 -0.5" size="0.02"/>
      <site name="tip" pos="0 0 -0.5"/>
    </body>
  </worldbody>
  <actuator><motor name="shoulder" joint="hinge"/></actuator>
  <sensor><jointpos name="angle" joint="hinge"/></sensor>
</mujoco>
"""

SCENE = """
<mujoco>
  <worldbody>
    <light pos="0 0 3"/>
    <camera name="eye" pos="0 0 1" xyaxes="0 -1 0 0 0 1"/>
    <body pos="3 1 1">
      <joint name="slide" type="slide" axis="0 1 0"/>
      <joint name="hinge" type="hinge" axis="0 1 0"/>
      <geom type="sphere" size="0.5" rgba="1 0 0 1"/>
    </body>
  </worldbody>
  <actuator><motor joint="hinge"/></actuator>
</mujoco>
"""
"""A red ball, to the left of a camera that looks along x."""

SCRIPT = """
class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("torque")
        self._setDataPack("torque", {"value": 0.0})

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step([self._getDataPack("torque")["value"]], timestep_ns)
        seen.append(self.sim_manager)

    def shutdown(self):
        pass
"""

CART = """
class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("state")

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step(1, timestep_ns)
        properties = self.sim_manager.get_model_all_properties("Property")
        self._setDataPack("state", {name: properties[name] for name in ("observation", "reward", "doneFlag")})
        seen.append(properties)

    def shutdown(self):
        pass
"""


@pytest.fixture
def arm(experiment: Experiment) -> Experiment:
    experiment.file("world.xml", WORLD)
    return experiment.simulator("Mujoco", "world.xml", SCRIPT)


# -- MuJoCo ----------------------------------------------------------------------------------------------------------


def test_mujoco_advances_by_the_engines_timestep(arm: Experiment) -> None:
    core = arm.started()
    core.run_loop(8)
    assert seen[-1].get_sim_time() == pytest.approx(0.08)
    core.shutdown()


def test_a_timestep_that_is_no_multiple_of_mujocos_is_divided_evenly(arm: Experiment) -> None:
    arm.configuration["EngineConfigs"][0]["EngineTimestep"] = 0.003
    core = arm.started()
    core.run_loop(5)
    assert seen[-1].get_sim_time() == pytest.approx(len(seen) * 0.003)
    core.shutdown()


def test_an_action_moves_the_actuators(arm: Experiment) -> None:
    core = arm.started()
    core.set_json_datapack("torque", "body", {"value": 1.0})
    core.run_loop(5)
    assert seen[-1].get_model_property("hinge", "joint_qpos")[0] != 0
    assert seen[-1].get_model_property("angle", "sensordata")[0] != 0
    core.shutdown()


def test_names_and_values_are_mujocos(arm: Experiment) -> None:
    core = arm.started()
    core.run_loop(1)
    simulator = seen[-1]
    assert simulator.get_model_properties("site") == ["tip"]
    assert simulator.get_model_properties("actuator") == ["shoulder"]
    np.testing.assert_allclose(simulator.get_model_property("tip", "site_xpos"), [0, 0, -0.5], atol=1e-6)
    assert set(simulator.get_model_all_properties("body_xpos")) >= {"arm"}
    core.shutdown()


def test_a_value_that_was_read_does_not_change_later(arm: Experiment) -> None:
    core = arm.started()
    core.run_loop(1)
    before = seen[-1].get_model_property("tip", "site_xpos")
    held = before.copy()
    core.set_json_datapack("torque", "body", {"value": 5.0})
    core.run_loop(10)
    np.testing.assert_array_equal(before, held)
    assert not np.array_equal(seen[-1].get_model_property("tip", "site_xpos"), held)
    core.shutdown()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [("tip", "nonsense", "nothing of type 'nonsense'"), ("toe", "site_xpos", "no site 'toe'")],
)
def test_what_the_model_does_not_have_is_named(arm: Experiment, name: str, kind: str, words: str) -> None:
    core = arm.started()
    core.run_loop(1)
    with pytest.raises(ValueError, match=words):
        seen[-1].get_model_property(name, kind)
    core.shutdown()


def test_an_action_of_the_wrong_length_names_the_actuators(arm: Experiment) -> None:
    script = arm.folder / "body.py"
    script.write_text(script.read_text().replace('[self._getDataPack("torque")["value"]]', "[1.0, 2.0]"))
    core = arm.started()
    with pytest.raises(EngineFailed, match=r"1 numbers.*shoulder"):
        core.run_loop(1)
    core.shutdown()


def test_reset_goes_back_to_the_world_file(arm: Experiment) -> None:
    core = arm.started()
    core.set_json_datapack("torque", "body", {"value": 5.0})
    core.run_loop(10)
    core.reset()
    assert seen[-1].get_sim_time() == 0
    assert seen[-1].get_model_property("hinge", "joint_qpos")[0] == 0
    core.shutdown()


def test_a_camera_renders_what_it_sees(arm: Experiment) -> None:
    arm.file("world.xml", SCENE)
    core = arm.started()
    core.run_loop(1)
    picture = seen[-1].render("eye", 80, 60)
    assert (picture.shape, picture.dtype) == ((60, 80, 3), np.uint8)
    red = (picture[..., 0] > 100) & (picture[..., 1] < 50)
    _, columns = np.nonzero(red)
    assert len(columns) > 50
    assert columns.max() < 40
    large = seen[-1].render("eye", 800, 600)
    assert large.shape == (600, 800, 3)
    core.shutdown()


def test_a_picture_is_of_the_present(arm: Experiment) -> None:
    arm.file("world.xml", SCENE.replace('joint="hinge"', 'joint="slide" gear="1000"'))
    core = arm.started()
    core.run_loop(1)
    before = seen[-1].render("eye")
    core.set_json_datapack("torque", "body", {"value": 5.0})
    core.run_loop(10)
    assert not np.array_equal(seen[-1].render("eye"), before)
    core.reset()
    assert np.abs(seen[-1].render("eye").astype(int) - before).max() < 8
    core.shutdown()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("ear",), "no camera 'ear'; there are: eye"), (("eye", 0, 60), "not 0 x 60"), (("eye", 80, -1), "not 80 x -1")],
)
def test_a_picture_that_cannot_be_is_refused(arm: Experiment, arguments: tuple[Any, ...], words: str) -> None:
    arm.file("world.xml", SCENE)
    core = arm.started()
    core.run_loop(1)
    with pytest.raises(ValueError, match=words):
        seen[-1].render(*arguments)
    core.shutdown()


def test_where_nothing_can_render_the_missing_packages_are_named(
    arm: Experiment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AttributeError("'NoneType' object has no attribute 'eglQueryString'")

    arm.file("world.xml", SCENE)
    core = arm.started()
    core.run_loop(1)
    monkeypatch.setattr("mujoco.Renderer", fail)
    with pytest.raises(RuntimeError, match=r"eglQueryString.*apt-get install libegl1 libopengl0 libgl1-mesa-dri"):
        seen[-1].render("eye")
    core.shutdown()


def test_a_world_file_that_is_missing_is_named(arm: Experiment) -> None:
    arm.configuration["EngineConfigs"][0]["WorldFileName"] = "missing.xml"
    core = arm.core()
    with pytest.raises(Exception, match=r"missing\.xml"):
        core.initialize()
    core.shutdown()


# -- MuJoCo's camera -------------------------------------------------------------------------------------------------

CAMERA = """
import mujoco

class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("frame")

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step([0.0], timestep_ns)
        with mujoco.Renderer(self.sim_manager.model, 48, 64) as renderer:
            renderer.update_scene(self.sim_manager.data)
            frame = renderer.render()
        print("frame", frame.shape, frame.min() < frame.max())
"""

RUN = """
import sys
from nrp_simserver.cores.embedded import EmbeddedCore

core = EmbeddedCore(sys.argv[1])
core.initialize()
core.run_loop()
core.shutdown()
"""


def run_without_display(arm: Experiment, **environment: str) -> str:
    """What a process prints that runs the experiment, mujoco not having been imported before."""
    arm.file("simulation_config.json", json.dumps(arm.configuration))
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "MUJOCO_GL", "PYOPENGL_PLATFORM"}
    inherited = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, "-c", RUN, str(arm.folder)]
    inherited["PYTHONPATH"] = str(Path(__file__).parents[3])
    return subprocess.check_output(command, env={**inherited, **environment}, text=True)


def test_a_script_renders_camera_frames_where_there_is_no_display(arm: Experiment) -> None:
    if not has_egl():
        pytest.skip("EGL is not installed (Debian: libegl1, libopengl0 and libgl1-mesa-dri)")
    arm.file("body.py", SIMULATOR_IMPORTS, CAMERA)
    assert "frame (48, 64, 3) True" in run_without_display(arm)


@pytest.mark.parametrize(
    ("environment", "value"), [({}, "egl"), ({"MUJOCO_GL": "off"}, "off"), ({"DISPLAY": ":7"}, "")]
)
def test_how_mujoco_renders_is_decided_before_a_script_imports_it(
    arm: Experiment, environment: dict[str, str], value: str
) -> None:
    if value == "egl" and not has_egl():
        value = ""
    arm.file("body.py", 'import os\nprint("MUJOCO_GL=" + os.environ.get("MUJOCO_GL", ""))\n', SIMULATOR_IMPORTS, SCRIPT)
    assert f"MUJOCO_GL={value}\n" in run_without_display(arm, **environment)


def has_egl() -> bool:
    try:
        ctypes.CDLL("libEGL.so.1")
    except OSError:
        return False
    return True


# -- Gymnasium -------------------------------------------------------------------------------------------------------


def test_an_environment_is_stepped_and_its_properties_are_read(experiment: Experiment) -> None:
    core = experiment.simulator("OpenAI", "CartPole-v1", CART).started()
    core.run_loop(5)
    assert len(seen[-1]["observation"]) == 4
    assert seen[-1]["reward"] == 1.0
    assert set(seen[-1]) == {"observation", "reward", "truncated", "doneFlag", "trainInfo"}
    for _ in range(100):
        if seen[-1]["doneFlag"]:
            break
        core.run_loop(1)
    assert seen[-1]["doneFlag"]  # pushed to one side only, the pole has fallen
    core.shutdown()


OWN_ENVIRONMENT = """
import gymnasium
import numpy as np

class Counter(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,))
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.count += action
        return np.full(1, self.count, np.float32), 0.0, self.count == 3, False, {}

gymnasium.register("NrpTestCounter-v0", Counter)
"""


def test_an_environment_of_the_experiments_own_is_stepped(experiment: Experiment) -> None:
    experiment.file("counter.py", OWN_ENVIRONMENT)
    core = experiment.simulator("OpenAI", "counter:NrpTestCounter-v0", CART).started()
    core.run_loop(3)
    assert seen[-1]["observation"] == [3.0]
    assert seen[-1]["doneFlag"]
    core.shutdown()


def test_an_environment_that_does_not_exist_is_named(experiment: Experiment) -> None:
    core = experiment.simulator("OpenAI", "NoSuchThing-v1", CART).core()
    with pytest.raises(EngineFailed, match="NoSuchThing-v1"):
        core.initialize()
    core.shutdown()


# -- what is not there -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("simulator", "extra"), [("Mujoco", "mujoco"), ("OpenAI", "gym"), ("Bullet", "bullet"), ("Opensim", "opensim")]
)
def test_without_the_simulators_package_the_extra_is_named(
    experiment: Experiment, monkeypatch: pytest.MonkeyPatch, simulator: str, extra: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    words = rf"'body' is of type py_sim: it needs .* for Simulator '{simulator}': .*nrp-backend\[{extra}\]"
    with pytest.raises(EngineUnavailable, match=words):
        experiment.simulator(simulator, "world", SCRIPT).core()
