"""py_sim engines: real MuJoCo and Gymnasium in this process."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest

from nrp_common.errors import EngineFailed, EngineUnavailable
from tests.unit.cores.experiment import Experiment, seen

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
from nrp_core.engines.py_sim import PySimEngineScript
from tests.unit.cores.experiment import seen

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
from nrp_core.engines.py_sim import PySimEngineScript
from tests.unit.cores.experiment import seen

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


def engine(experiment: Experiment, script: str, **fields: Any) -> Experiment:
    experiment.file("body.py", script)
    entry = {"EngineName": "body", "EngineType": "py_sim", "PythonFileName": "body.py", "EngineTimestep": 0.01}
    experiment.configuration["EngineConfigs"] = [{**entry, **fields}]
    return experiment


@pytest.fixture
def arm(experiment: Experiment) -> Experiment:
    experiment.file("world.xml", WORLD)
    return engine(experiment, SCRIPT, Simulator="Mujoco", WorldFileName="world.xml")


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
    arm.file("body.py", SCRIPT.replace('[self._getDataPack("torque")["value"]]', "[1.0, 2.0]"))
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
    with pytest.raises(RuntimeError, match=r"eglQueryString.*apt-get install libegl1 libgl1-mesa-dri"):
        seen[-1].render("eye")
    core.shutdown()


def test_a_world_file_that_is_missing_is_named(arm: Experiment) -> None:
    arm.configuration["EngineConfigs"][0]["WorldFileName"] = "missing.xml"
    core = arm.core()
    with pytest.raises(Exception, match=r"missing\.xml"):
        core.initialize()
    core.shutdown()


# -- Gymnasium -------------------------------------------------------------------------------------------------------


def test_an_environment_is_stepped_and_its_properties_are_read(experiment: Experiment) -> None:
    core = engine(experiment, CART, Simulator="OpenAI", WorldFileName="CartPole-v1").started()
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


def test_an_environment_that_does_not_exist_is_named(experiment: Experiment) -> None:
    core = engine(experiment, CART, Simulator="OpenAI", WorldFileName="NoSuchThing-v1").core()
    with pytest.raises(EngineFailed, match="NoSuchThing-v1"):
        core.initialize()
    core.shutdown()


# -- what is not there -----------------------------------------------------------------------------------------------


def test_without_the_simulators_package_the_extra_is_named(arm: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(EngineUnavailable, match=r"'body' is of type py_sim: it needs .*nrp-backend\[mujoco\]"):
        arm.core()


def test_a_simulator_that_nothing_here_drives_is_named(arm: Experiment) -> None:
    arm.configuration["EngineConfigs"][0]["Simulator"] = "Opensim"
    with pytest.raises(EngineUnavailable, match="Simulator 'Opensim', which only the original nrp-core drives"):
        arm.core()
