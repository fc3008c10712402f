"""py_sim engines with Bullet: real worlds in this process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nrp_common.errors import EngineFailed
from tests.unit.cores.experiment import Experiment, seen

pytest.importorskip("pybullet", reason="pybullet is not installed: it comes as a wheel for Python 3.11 only")

ARM = """
<robot name="arm">
  <link name="world"/>
  <link name="upper">
    <inertial><origin xyz="0 0 -0.25"/><mass value="1"/>
      <inertia ixx="0.02" ixy="0" ixz="0" iyy="0.02" iyz="0" izz="0.001"/></inertial>
  </link>
  <link name="lower">
    <inertial><origin xyz="0 0 -0.25"/><mass value="0.5"/>
      <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.001"/></inertial>
  </link>
  <link name="hand">
    <inertial><mass value="0.1"/><inertia ixx="0.001" ixy="0" ixz="0" iyy="0.001" iyz="0" izz="0.001"/></inertial>
  </link>
  <joint name="shoulder" type="continuous"><parent link="world"/><child link="upper"/><axis xyz="0 1 0"/></joint>
  <joint name="elbow" type="revolute">
    <parent link="upper"/><child link="lower"/><origin xyz="0 0 -0.5"/><axis xyz="0 1 0"/>
    <limit lower="-3" upper="3" effort="20" velocity="10"/>
  </joint>
  <joint name="wrist" type="fixed"><parent link="lower"/><child link="hand"/><origin xyz="0 0 -0.5"/></joint>
</robot>
"""

BALL = """
<robot name="ball">
  <link name="sphere">
    <inertial><mass value="1"/><inertia ixx="0.1" ixy="0" ixz="0" iyy="0.1" iyz="0" izz="0.1"/></inertial>
  </link>
</robot>
"""

TWO_ARMS = """
<mujoco model="pair">
  <worldbody>
    <body name="left" pos="0 1 1">
      <joint name="hinge" type="hinge" axis="0 1 0"/><geom type="sphere" size="0.1"/>
    </body>
    <body name="right" pos="0 -1 1">
      <joint name="hinge" type="hinge" axis="0 1 0"/><geom type="sphere" size="0.1"/>
    </body>
  </worldbody>
</mujoco>
"""

SCRIPT = """
class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("action")
        seen.append(self.sim_manager)

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step(self._getDataPack("action"), timestep_ns)
"""


@pytest.fixture
def arm(experiment: Experiment) -> Experiment:
    return experiment.file("arm.urdf", ARM).simulator("Bullet", "arm.urdf", SCRIPT)


def run(experiment: Experiment, action: Any = None, steps: int = 1) -> Any:
    """The simulator after some steps with an action."""
    core = experiment.started()
    if action is not None:
        core.set_json_datapack("action", "body", action)
    core.run_loop(steps)
    return seen[-1]


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [0.001, 0.003, 0.01, 0.02])
def test_as_much_time_passes_in_the_world_as_in_the_engine(experiment: Experiment, timestep: float) -> None:
    experiment.file("ball.urdf", BALL).simulator("Bullet", "ball.urdf", SCRIPT, timestep)
    steps = round(0.3 / timestep)
    simulator = run(experiment, steps=steps)
    assert simulator.get_sim_time() == steps * round(timestep * 1e9) / 1e9
    height = simulator.get_model_property("sphere", "link_position")[2]
    assert height == pytest.approx(-0.5 * 9.81 * 0.3**2, rel=0.03)


# -- actions ---------------------------------------------------------------------------------------------------------


def test_a_list_has_the_position_of_every_joint_in_the_models_order(arm: Experiment) -> None:
    simulator = run(arm, [0.5, -0.25], steps=50)
    assert simulator.get_model_properties("joint") == ["shoulder", "elbow"]
    assert simulator.get_model_property("shoulder", "joint_position") == pytest.approx(0.5, abs=0.01)
    assert simulator.get_model_property("elbow", "joint_position") == pytest.approx(-0.25, abs=0.01)


@pytest.mark.parametrize(
    "action",
    [
        {"elbow": 0.75},
        [["elbow", 0.75]],
        {"elbow": {"position": 0.75}},
        {"elbow": {"position": 0.75, "velocity": 0.0, "force": 15.0}},
    ],
)
def test_joints_may_be_named(arm: Experiment, action: Any) -> None:
    simulator = run(arm, action, steps=50)
    assert simulator.get_model_property("elbow", "joint_position") == pytest.approx(0.75, abs=0.01)


def test_plain_numbers_are_what_the_simulators_control_says(arm: Experiment) -> None:
    core = arm.started()
    seen[-1].control = "velocity"
    core.set_json_datapack("action", "body", [1.0, 0.0])
    core.run_loop(20)
    assert seen[-1].get_model_property("shoulder", "joint_velocity") == pytest.approx(1.0, abs=0.01)
    assert seen[-1].get_model_property("shoulder", "joint_position") == pytest.approx(0.2, abs=0.02)


def test_a_torque_acts_throughout_an_engines_step_and_until_another_action(arm: Experiment) -> None:
    core = arm.started()
    simulator = seen[-1]
    simulator.client.setGravity(0, 0, 0)
    simulator.client.changeDynamics(0, 0, linearDamping=0, angularDamping=0, jointDamping=0)
    core.set_json_datapack("action", "body", {"shoulder": {"torque": 0.3}, "elbow": {"position": 0.0}})
    core.run_loop()
    core.set_json_datapack("action", "body", None)
    core.run_loop(9)
    # About the shoulder: two rods about their ends, the second one half a metre further, and the hand at its end.
    inertia = (0.02 + 0.25**2) + (0.01 + 0.5 * 0.75**2) + (0.001 + 0.1)
    assert simulator.get_model_property("shoulder", "joint_velocity") == pytest.approx(0.3 / inertia * 0.1, rel=0.05)
    assert simulator.get_model_property("shoulder", "joint_torque") == 0.3


@pytest.mark.parametrize("action", [[1.5, 0.0], {"shoulder": 1.5, "elbow": 0.0}])
def test_torques_do_the_same_in_a_list_and_by_name(arm: Experiment, action: Any) -> None:
    core = arm.started()
    seen[-1].control = "torque"
    core.set_json_datapack("action", "body", action)
    core.run_loop(10)
    moved = seen[-1].get_model_all_properties("joint_position")
    core.reset()
    named = {"shoulder": {"torque": 1.5}, "elbow": {"torque": 0.0}}
    core.set_json_datapack("action", "body", named)
    core.run_loop(10)
    assert seen[-1].get_model_all_properties("joint_position") == moved
    assert moved["shoulder"] != 0


def test_a_joint_without_torque_swings_freely(arm: Experiment) -> None:
    core = arm.started()
    seen[-1].client.resetJointState(0, 0, 1.0)
    core.set_json_datapack("action", "body", {name: {"torque": 0.0} for name in ("shoulder", "elbow")})
    core.run_loop(40)
    assert seen[-1].get_model_property("shoulder", "joint_position") < 0.5


def test_a_joint_follows_positions_again_after_torques(arm: Experiment) -> None:
    core = arm.started()
    core.set_json_datapack("action", "body", {"elbow": {"torque": 2.0}})
    core.run_loop(5)
    core.set_json_datapack("action", "body", {"elbow": 0.5})
    core.run_loop(60)
    assert seen[-1].get_model_property("elbow", "joint_position") == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([1.0], r"2 finite numbers, one a joint \(these are: shoulder, elbow\)"),
        ("up", "2 finite numbers"),
        (3.0, "2 finite numbers"),
        ({"knee": 1.0}, "joint 'knee', which is none of those that can be moved: shoulder, elbow"),
        ({"wrist": 1.0}, "joint 'wrist', which is none of those"),
        ({"elbow": "up"}, "joint 'elbow': position has to be a finite number, it is 'up'"),
        ({"elbow": {"force": 1.0}}, "joint 'elbow' has to be a number"),
        ({"elbow": {"torque": 1.0, "position": 1.0}}, "joint 'elbow' has to be a number"),
        ({"elbow": {"angle": 1.0}}, "joint 'elbow' has to be a number"),
    ],
)
def test_an_action_that_does_not_fit_says_what_would(arm: Experiment, action: Any, words: str) -> None:
    core = arm.started()
    core.set_json_datapack("action", "body", action)
    with pytest.raises(EngineFailed, match=words):
        core.run_loop()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_no_joint_is_sent_to_infinity(arm: Experiment, value: float) -> None:
    arm.started()
    with pytest.raises(ValueError, match="2 finite numbers"):
        seen[-1].run_step([0.0, value], 1)
    with pytest.raises(ValueError, match="joint 'elbow': position has to be a finite number"):
        seen[-1].run_step({"elbow": value}, 1)


def test_a_control_that_does_not_exist_is_refused(arm: Experiment) -> None:
    arm.started()
    with pytest.raises(ValueError, match="control has to be one of position, velocity, torque, it is 'thought'"):
        seen[-1].control = "thought"


# -- properties ------------------------------------------------------------------------------------------------------


def test_joints_links_and_bodies_are_listed(arm: Experiment) -> None:
    simulator = run(arm)
    assert simulator.get_model_properties("joint") == ["shoulder", "elbow"]
    assert simulator.get_model_properties("link") == ["world", "upper", "lower", "hand"]
    assert simulator.get_model_properties("body") == ["arm"]
    assert simulator.get_model_properties("Link_Position") == simulator.get_model_properties("link")


def test_a_link_is_where_its_origin_is_and_as_fast_as_that(arm: Experiment) -> None:
    core = arm.started()
    seen[-1].client.resetJointState(0, 0, math.pi / 2, 2.0)
    hand = seen[-1].get_model_property("hand", "link")
    lower = seen[-1].get_model_property("lower", "link")
    np.testing.assert_allclose(hand["position"], [-1.0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(lower["position"], [-0.5, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hand["linear_velocity"], [0, 0, 2.0], atol=1e-6)
    np.testing.assert_allclose(lower["linear_velocity"], [0, 0, 1.0], atol=1e-6)
    np.testing.assert_allclose(lower["angular_velocity"], [0, 2.0, 0], atol=1e-6)
    np.testing.assert_allclose(np.abs(lower["orientation"]), [0, math.sqrt(0.5), 0, math.sqrt(0.5)], atol=1e-6)
    core.shutdown()


def test_a_body_is_where_the_origin_of_its_base_is(experiment: Experiment) -> None:
    shifted = BALL.replace("<inertial>", '<inertial><origin xyz="0 0 0.5"/>')
    experiment.file("ball.urdf", shifted).simulator("Bullet", "ball.urdf", SCRIPT).started()
    np.testing.assert_allclose(seen[-1].get_model_property("ball", "body_position"), [0, 0, 0], atol=1e-6)


def test_all_properties_of_a_type_come_by_name(arm: Experiment) -> None:
    simulator = run(arm)
    assert set(simulator.get_model_all_properties("joint")) == {"shoulder", "elbow"}
    assert set(simulator.get_model_all_properties("joint")["elbow"]) == {
        "position",
        "velocity",
        "reaction_forces",
        "torque",
    }


def test_elements_of_one_name_are_told_apart_by_their_bodies(experiment: Experiment) -> None:
    simulator = run(experiment.file("pair.xml", TWO_ARMS).simulator("Bullet", "pair.xml", SCRIPT))
    bodies = simulator.get_model_properties("body")
    assert len(bodies) == 2
    assert simulator.get_model_properties("joint") == [f"{body}/hinge" for body in bodies]


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("elbow", "joint_colour", "nothing of type 'joint_colour'; types are joint .*joint_velocity"),
        ("elbow", "muscle", "nothing of type 'muscle'"),
        ("knee", "joint_position", "the model has no joint 'knee'; there are: shoulder, elbow"),
    ],
)
def test_what_the_world_does_not_have_is_named(arm: Experiment, name: str, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(arm).get_model_property(name, kind)


# -- worlds ----------------------------------------------------------------------------------------------------------


def test_reset_goes_back_to_the_world_file(arm: Experiment) -> None:
    core = arm.started()
    core.set_json_datapack("action", "body", {"shoulder": {"torque": 2.0}, "elbow": 1.0})
    core.run_loop(20)
    moved = seen[-1].get_model_all_properties("joint_position")
    core.reset()
    assert seen[-1].get_sim_time() == 0
    assert seen[-1].get_model_all_properties("joint_position") == {"shoulder": 0, "elbow": 0}
    core.run_loop(20)
    assert seen[-1].get_model_all_properties("joint_position") == moved


def test_each_engine_has_a_world_of_its_own(arm: Experiment) -> None:
    other = {**arm.configuration["EngineConfigs"][0], "EngineName": "other"}
    arm.configuration["EngineConfigs"].append(other)
    core = arm.started()
    body, other = seen
    core.set_json_datapack("action", "body", [0.5, 0.5])
    core.run_loop(30)
    assert body.get_model_property("elbow", "joint_position") == pytest.approx(0.5, abs=0.01)
    assert other.get_model_property("elbow", "joint_position") == pytest.approx(0.0, abs=0.01)
    core.reset()
    assert other.get_model_properties("joint") == ["shoulder", "elbow"]
    core.shutdown()
    assert [simulator.client.isConnected() for simulator in (body, other)] == [0, 0]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("arm.urdf", "<robot", r"WorldFileName: arm\.urdf: Cannot load URDF file"),
        ("arm.txt", ARM, r"WorldFileName: Bullet loads files that end in \.urdf, .*, not 'arm\.txt'"),
    ],
)
def test_a_world_file_that_cannot_be_loaded_is_named(
    experiment: Experiment, name: str, content: str, words: str
) -> None:
    core = experiment.file(name, content).simulator("Bullet", name, SCRIPT).core()
    with pytest.raises(EngineFailed, match=words):
        core.initialize()
    core.shutdown()


def test_a_world_file_that_is_missing_is_named(experiment: Experiment) -> None:
    core = experiment.simulator("Bullet", "missing.urdf", SCRIPT).core()
    with pytest.raises(EngineFailed, match=r"WorldFileName: the experiment has no file 'missing\.urdf'"):
        core.initialize()
