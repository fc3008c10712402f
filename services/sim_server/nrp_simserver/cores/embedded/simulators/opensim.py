"""OpenSim: musculoskeletal models."""

from __future__ import annotations

import logging
import math
import numbers
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import opensim

from nrp_simserver.cores.configuration import experiment_file
from nrp_simserver.cores.embedded.simulators import Simulator, seconds
from nrp_simserver.cores.embedded.simulators.kinds import Kind, Kinds

logger = logging.getLogger(__name__)

_ACCURACY = 1e-5
"""Of the integrator, as in OpenSim's own tool for forward simulations."""


def open_world(world: str, folder: Path, *, visible: bool) -> OpensimSimulator:
    """Load an .osim file of the experiment."""
    return OpensimSimulator(experiment_file(folder, world, "WorldFileName"), visible=visible)


class OpensimSimulator(Simulator):
    """An OpenSim model.

    Types of properties, in SI units, vectors as numpy arrays:
    - "Joint": the value of its coordinate, in radians or metres; a dict by coordinate when it has several, or none.
    - "Force": what it exerts, in N or N m, for a muscle its tension; a dict by label when that is more than a number.
    - "Coordinate", with `value` and `speed`.
    - "Muscle", with `activation`, `excitation`, `length` (of muscle and tendon), `fiber_length`, `fiber_velocity` and
      `force` (of the tendon).
    - "Actuator": the control of a muscle or motor; what the numbers of an action are for, in their order.
    - "Body", with `position` (of its origin), `orientation` (a quaternion w, x, y, z), `linear_velocity`,
      `angular_velocity`, and "Marker", with `position` and `velocity`, both in the coordinates of the ground.
    "Muscle_activation" and the like mean one of these values. Names are those of the file.

    An engine's step is integrated to exactly its end, from anew where the controls have changed.

    Attributes:
        model: OpenSim's Model.
    """

    def __init__(self, world: Path, *, visible: bool = False) -> None:
        opensim.Logger.removeFileSink()  # it would put an opensim.log into the experiment
        opensim.Logger.setLevelString("warn")  # else it tells of every step
        try:
            self.model: Any = opensim.Model(str(world))
            self.model.setUseVisualizer(visible)
            state = self.model.initSystem()
        except RuntimeError as error:
            raise ValueError(f"WorldFileName: OpenSim cannot load {world.name}: {error}") from None
        self._visible = visible
        self._kinds = self._find_kinds()
        self._controls = self._kinds.names("Actuator")
        self._muscles = [self._controls.index(name) for name in self._kinds.names("Muscle")]
        self._at_rest = self.model.getDefaultControls().to_numpy()
        try:
            self.model.equilibrateMuscles(state)
        except RuntimeError as error:
            logger.warning("%s: its muscles begin out of equilibrium: %s", world.name, error)
        self._initial_state = opensim.State(state)
        self._manager = opensim.Manager(self.model)
        self._manager.setWriteToStorage(False)  # it would remember every step
        self._manager.setPerformAnalyses(False)
        self._manager.setIntegratorAccuracy(_ACCURACY)
        self.reset()

    @property
    def state(self) -> Any:
        """OpenSim's State of the model, as of now: it is another one after each step."""
        return self._manager.getState()

    def run_step(self, action: Any, timestep_ns: int) -> None:
        """Set controls, such as the excitations of muscles from 0 to 1, and advance.

        Args:
            action: a list of numbers, one for every actuator in the model's order, or one for every muscle; or a dict
                by name, which leaves the others as they are. None leaves all as they are. Controllers in the model add
                to them.
            timestep_ns: nanoseconds.
        """
        if action is not None:
            self._set_controls(action)
        self._elapsed_ns += timestep_ns
        state = self._manager.integrate(seconds(self._elapsed_ns))
        if self._visible:
            self.model.getVisualizer().show(state)

    def _set_controls(self, action: Any) -> None:
        controls = self._present.copy()
        if isinstance(action, Mapping):
            for name, value in action.items():
                controls[self._place(name)] = value if isinstance(value, numbers.Real) else math.nan
        else:
            self._fill(controls, action)
        if not np.isfinite(controls).all():
            raise ValueError(f"the action has to consist of numbers, all of them finite; it is {action!r}")
        if (controls != self._present).any():
            self._use(controls)

    def _fill(self, controls: Any, action: Any) -> None:
        try:
            values = np.asarray(action, dtype=float)
        except (TypeError, ValueError):
            values = np.empty(())
        if values.shape == controls.shape:
            controls[:] = values
        elif values.shape == (len(self._muscles),):
            controls[self._muscles] = values
        else:
            raise ValueError(
                f"the action has to be a list of {len(controls)} numbers, one an actuator (these are:"
                f" {', '.join(self._controls) or 'none'}), of {len(self._muscles)}, one a muscle, or a dict of their"
                f" names and numbers; it is {action!r}"
            )

    def _place(self, name: str) -> int:
        try:
            return self._controls.index(name)
        except ValueError:
            known = ", ".join(self._controls) or "none"
            raise ValueError(f"the action names {name!r}, which is none of the model's actuators: {known}") from None

    def _use(self, controls: Any, state: Any = None) -> None:
        """From here on, or from another state on, with these controls."""
        self._present = controls
        self.model.setDefaultControls(opensim.Vector.createFromMat(controls))
        self._manager.initialize(opensim.State(self.state if state is None else state))

    def reset(self) -> None:
        """Go back to the model's initial state, its muscles in equilibrium."""
        self._elapsed_ns = 0
        self._use(self._at_rest, self._initial_state)

    def shutdown(self) -> None:
        """Free the model."""
        self._manager = self._initial_state = self.model = None

    def get_model_properties(self, datapack_type: str) -> list[str]:
        """The names of all joints, muscles, ..."""
        return self._kinds.names(datapack_type)

    def get_model_property(self, name: str, datapack_type: str) -> Any:
        """The present value, or a dict of all values, of one of them."""
        return self._kinds.value(name, datapack_type)

    def get_sim_time(self) -> float:
        """OpenSim's time in seconds."""
        return float(self.state.getTime())

    # -- properties ----------------------------------------------------------------------------------------------------

    def _find_kinds(self) -> Kinds:
        model = self.model
        return Kinds(
            {
                "Joint": Kind(_by_name(model.getJointSet()), self._joint),
                "Force": Kind(_by_name(model.getForceSet()), self._force),
                "Coordinate": Kind(
                    _by_name(model.getCoordinateSet()),
                    {
                        "value": lambda coordinate: coordinate.getValue(self.state),
                        "speed": lambda coordinate: coordinate.getSpeedValue(self.state),
                    },
                ),
                "Muscle": Kind(
                    _by_name(model.getMuscles()),
                    {
                        "activation": lambda muscle: muscle.getActivation(self._realized()),
                        "excitation": lambda muscle: muscle.getExcitation(self._realized()),
                        "length": lambda muscle: muscle.getLength(self._realized()),
                        "fiber_length": lambda muscle: muscle.getFiberLength(self._realized()),
                        "fiber_velocity": lambda muscle: muscle.getFiberVelocity(self._realized()),
                        "force": lambda muscle: muscle.getTendonForce(self._realized()),
                    },
                ),
                "Actuator": Kind(
                    _controls(model), lambda place: float(self.model.getControls(self._realized()).get(place))
                ),
                "Body": Kind(
                    _by_name(model.getBodySet()),
                    {
                        "position": lambda body: body.getPositionInGround(self._realized()).to_numpy(),
                        "orientation": self._orientation,
                        "linear_velocity": lambda body: body.getVelocityInGround(self._realized()).get(1).to_numpy(),
                        "angular_velocity": lambda body: body.getVelocityInGround(self._realized()).get(0).to_numpy(),
                    },
                ),
                "Marker": Kind(
                    _by_name(model.getMarkerSet()),
                    {
                        "position": lambda marker: marker.getLocationInGround(self._realized()).to_numpy(),
                        "velocity": lambda marker: marker.getVelocityInGround(self._realized()).to_numpy(),
                    },
                ),
            }
        )

    def _realized(self) -> Any:
        """The present state, with all that follows from it: computed once a step, however often it is asked for."""
        state = self.state
        self.model.realizeDynamics(state)
        return state

    def _joint(self, joint: Any) -> Any:
        state = self.state
        coordinates = [joint.get_coordinates(index) for index in range(joint.numCoordinates())]
        return _one_or_all({coordinate.getName(): coordinate.getValue(state) for coordinate in coordinates})

    def _force(self, force: Any) -> Any:
        labels, values = force.getRecordLabels(), force.getRecordValues(self._realized())
        return _one_or_all({labels.get(index): values.get(index) for index in range(labels.getSize())})

    def _orientation(self, body: Any) -> Any:
        turned = body.getTransformInGround(self._realized()).R().convertRotationToQuaternion()
        return np.array([turned.get(index) for index in range(4)])


def _by_name(elements: Any) -> dict[str, Any]:
    """The elements of one of OpenSim's sets."""
    return {element.getName(): element for element in (elements.get(index) for index in range(elements.getSize()))}


def _controls(model: Any) -> dict[str, int]:
    """The places of all controls, in order; several of one actuator with their number behind its name."""
    names: list[str] = []
    for name, actuator in _by_name(model.getActuators()).items():
        count = actuator.numControls()
        names += [name] if count == 1 else [f"{name}/{index}" for index in range(count)]
    return {name: place for place, name in enumerate(names)}


def _one_or_all(values: dict[str, float]) -> Any:
    return next(iter(values.values())) if len(values) == 1 else values
