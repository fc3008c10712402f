"""py_sim engines with OpenSim: a real musculoskeletal model in this process."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from nrp_common.errors import EngineFailed
from tests.unit.cores.experiment import Experiment, seen

pytest.importorskip("opensim", reason="opensim is not installed: it comes as wheels for Linux on x86-64 only")

ARM = """
<OpenSimDocument Version="40600">
  <Model name="arm">
    <BodySet><objects>
      <Body name="forearm">
        <mass>1</mass><mass_center>0 -0.25 0</mass_center><inertia>0.03 0.03 0.03 0 0 0</inertia>
      </Body>
    </objects></BodySet>
    <JointSet><objects>
      <PinJoint name="elbow">
        <socket_parent_frame>/ground</socket_parent_frame>
        <socket_child_frame>/bodyset/forearm</socket_child_frame>
        <coordinates><Coordinate name="flexion"><default_value>0.3</default_value></Coordinate></coordinates>
      </PinJoint>
    </objects></JointSet>
    <ForceSet><objects>
      <CoordinateActuator name="motor">
        <coordinate>flexion</coordinate><optimal_force>2</optimal_force>
      </CoordinateActuator>
      <Millard2012EquilibriumMuscle name="biceps">
        <GeometryPath name="path"><PathPointSet><objects>
          <PathPoint name="origin">
            <socket_parent_frame>/ground</socket_parent_frame><location>0.05 0.25 0</location>
          </PathPoint>
          <PathPoint name="insertion">
            <socket_parent_frame>/bodyset/forearm</socket_parent_frame><location>0.03 -0.05 0</location>
          </PathPoint>
        </objects></PathPointSet></GeometryPath>
        <max_isometric_force>500</max_isometric_force>
        <optimal_fiber_length>0.15</optimal_fiber_length>
        <tendon_slack_length>0.12</tendon_slack_length>
      </Millard2012EquilibriumMuscle>
    </objects></ForceSet>
    <MarkerSet><objects>
      <Marker name="hand">
        <socket_parent_frame>/bodyset/forearm</socket_parent_frame><location>0 -0.5 0</location>
      </Marker>
    </objects></MarkerSet>
  </Model>
</OpenSimDocument>
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
    return experiment.file("arm.osim", ARM).simulator("Opensim", "arm.osim", SCRIPT)


def run(experiment: Experiment, action: Any = None, steps: int = 1) -> Any:
    """The simulator after some steps with an action."""
    core = experiment.started()
    if action is not None:
        core.set_json_datapack("action", "body", action)
    core.run_loop(steps)
    return seen[-1]


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("timestep", [0.001, 0.003, 0.01])
def test_the_models_clock_is_the_engines(arm: Experiment, timestep: float) -> None:
    arm.configuration["EngineConfigs"][0]["EngineTimestep"] = timestep
    simulator = run(arm, steps=7)
    assert simulator.get_sim_time() == 7 * round(timestep * 1e9) / 1e9
    assert simulator.state.getTime() == simulator.get_sim_time()


def test_the_forearm_falls_as_a_pendulum_does(experiment: Experiment) -> None:
    without_muscle = ARM[: ARM.index("      <Millard")] + ARM[ARM.index("    </objects></ForceSet>") :]
    simulator = run(experiment.file("arm.osim", without_muscle).simulator("Opensim", "arm.osim", SCRIPT), steps=10)
    angle, speed = (simulator.get_model_property("flexion", f"Coordinate_{field}") for field in ("value", "speed"))
    inertia, height = 0.03 + 0.25**2, 0.25 * (math.cos(angle) - math.cos(0.3))
    assert 0.5 * inertia * speed**2 == pytest.approx(9.80665 * height, rel=1e-3)


# -- actions ---------------------------------------------------------------------------------------------------------


def test_a_list_has_the_control_of_every_actuator_in_the_models_order(arm: Experiment) -> None:
    simulator = run(arm, [0.25, 0.75])
    assert simulator.get_model_all_properties("Actuator") == {"motor": 0.25, "biceps": 0.75}
    assert simulator.get_model_property("motor", "Force") == 0.5
    assert simulator.get_model_property("biceps", "Muscle_excitation") == 0.75


def test_a_list_may_be_of_the_muscles_alone(arm: Experiment) -> None:
    assert run(arm, [0.75]).get_model_all_properties("Actuator") == {"motor": 0.0, "biceps": 0.75}


def test_actuators_may_be_named_and_the_others_go_on_as_they_did(arm: Experiment) -> None:
    core = arm.started()
    for action in ([0.25, 0.75], {"motor": 0.5}, None):
        core.set_json_datapack("action", "body", action)
        core.run_loop()
    assert seen[-1].get_model_all_properties("Actuator") == {"motor": 0.5, "biceps": 0.75}


def test_an_excited_muscle_becomes_active_and_bends_the_elbow(arm: Experiment) -> None:
    simulator = run(arm, {"biceps": 1.0}, steps=20)
    muscle = simulator.get_model_property("biceps", "Muscle")
    assert muscle["activation"] > 0.9
    assert muscle["force"] == pytest.approx(simulator.get_model_property("biceps", "Force"))
    assert simulator.get_model_property("elbow", "Joint") > 0.5


@pytest.mark.parametrize(
    ("action", "words"),
    [
        ([1.0, 2.0, 3.0], r"2 numbers, one an actuator \(these are: motor, biceps\), of 1, one a muscle"),
        ("up", "2 numbers"),
        (3.0, "2 numbers"),
        ({"triceps": 1.0}, "'triceps', which is none of the model's actuators: motor, biceps"),
        ({"biceps": "up"}, "has to consist of numbers.*'up'"),
    ],
)
def test_an_action_that_does_not_fit_says_what_would(arm: Experiment, action: Any, words: str) -> None:
    core = arm.started()
    core.set_json_datapack("action", "body", action)
    with pytest.raises(EngineFailed, match=words):
        core.run_loop()


def test_no_actuator_is_given_a_control_that_is_no_number(arm: Experiment) -> None:
    arm.started()
    with pytest.raises(ValueError, match="has to consist of numbers, all of them finite"):
        seen[-1].run_step([0.0, math.nan], 1)


# -- properties ------------------------------------------------------------------------------------------------------


def test_what_the_model_has_is_listed_by_type(arm: Experiment) -> None:
    simulator = run(arm)
    types = ("Joint", "Coordinate", "Force", "Actuator", "Muscle", "Body", "Marker")
    assert {kind: simulator.get_model_properties(kind) for kind in types} == {
        "Joint": ["elbow"],
        "Coordinate": ["flexion"],
        "Force": ["motor", "biceps"],
        "Actuator": ["motor", "biceps"],
        "Muscle": ["biceps"],
        "Body": ["forearm"],
        "Marker": ["hand"],
    }


def test_a_joint_of_one_coordinate_is_a_number(arm: Experiment) -> None:
    arm.started()
    assert seen[-1].get_model_property("elbow", "Joint") == pytest.approx(0.3)


def test_a_joint_of_several_coordinates_is_a_dict(experiment: Experiment) -> None:
    two_more = '<Coordinate name="x"/><Coordinate name="y"/></coordinates>'
    planar = ARM.replace("PinJoint", "PlanarJoint").replace("</coordinates>", two_more)
    experiment.file("arm.osim", planar).simulator("Opensim", "arm.osim", SCRIPT).started()
    assert seen[-1].get_model_property("elbow", "Joint") == {"flexion": pytest.approx(0.3), "x": 0.0, "y": 0.0}


def test_bodies_and_markers_have_places_and_velocities(arm: Experiment) -> None:
    simulator = run(arm, steps=5)
    angle, speed = (simulator.get_model_property("flexion", f"Coordinate_{field}") for field in ("value", "speed"))
    direction, across = (
        np.array([math.sin(angle), -math.cos(angle), 0]),
        np.array([math.cos(angle), math.sin(angle), 0]),
    )
    hand = simulator.get_model_property("hand", "Marker")
    np.testing.assert_allclose(hand["position"], 0.5 * direction, atol=1e-9)
    np.testing.assert_allclose(hand["velocity"], 0.5 * speed * across, atol=1e-9)
    forearm = simulator.get_model_property("forearm", "Body")
    np.testing.assert_allclose(forearm["position"], np.zeros(3), atol=1e-9)
    np.testing.assert_allclose(forearm["angular_velocity"], [0, 0, speed], atol=1e-9)
    np.testing.assert_allclose(forearm["orientation"], [math.cos(angle / 2), 0, 0, math.sin(angle / 2)], atol=1e-9)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("elbow", "Tendon", "nothing of type 'Tendon'; types are Joint, Force, .*Muscle_activation"),
        ("triceps", "Muscle", "the model has no Muscle 'triceps'; there are: biceps"),
    ],
)
def test_what_the_model_does_not_have_is_named(arm: Experiment, name: str, kind: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        run(arm).get_model_property(name, kind)


# -- the model -------------------------------------------------------------------------------------------------------


def test_reset_goes_back_to_the_initial_state(arm: Experiment) -> None:
    core = arm.started()
    core.set_json_datapack("action", "body", [0.5, 0.5])
    core.run_loop(10)
    moved = seen[-1].get_model_property("biceps", "Muscle")
    core.reset()
    assert seen[-1].get_sim_time() == 0
    assert seen[-1].get_model_property("elbow", "Joint") == pytest.approx(0.3)
    assert seen[-1].get_model_all_properties("Actuator") == {"motor": 0.0, "biceps": 0.0}
    core.run_loop(10)
    assert seen[-1].get_model_property("biceps", "Muscle") == moved


def test_each_engine_has_a_model_of_its_own(arm: Experiment) -> None:
    arm.configuration["EngineConfigs"].append({**arm.configuration["EngineConfigs"][0], "EngineName": "other"})
    core = arm.started()
    body, other = seen
    core.set_json_datapack("action", "body", [0.0, 1.0])
    core.run_loop(5)
    assert body.get_model_property("biceps", "Muscle_activation") > 0.3
    assert other.get_model_property("biceps", "Muscle_activation") < 0.1
    core.shutdown()


def test_no_file_of_opensims_is_left_in_the_experiment(arm: Experiment) -> None:
    core = arm.started()
    core.run_loop()
    core.shutdown()
    assert not list(arm.folder.glob("*.log"))


def test_nothing_is_printed_in_a_step(arm: Experiment, capfd: pytest.CaptureFixture[str]) -> None:
    core = arm.started()
    capfd.readouterr()
    core.run_loop(3)
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("<OpenSimDocument", r"WorldFileName: OpenSim cannot load arm\.osim: .*Failed to load the Xml file"),
        (ARM.replace("/bodyset/forearm", "/bodyset/leg"), r"OpenSim cannot load arm\.osim: .*'/bodyset/leg'"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_named(experiment: Experiment, content: str, words: str) -> None:
    core = experiment.file("arm.osim", content).simulator("Opensim", "arm.osim", SCRIPT).core()
    with pytest.raises(EngineFailed, match=f"(?s){words}"):
        core.initialize()
    core.shutdown()
