"""MuJoCo: rigid bodies with contacts, joints, tendons and actuators."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mujoco
import numpy as np

from nrp_simserver.cores.configuration import NANOSECONDS, experiment_file
from nrp_simserver.cores.embedded.simulators import Simulator, physics_steps, seconds
from nrp_simserver.cores.embedded.simulators.mujoco_pictures import Pictures

_KINDS = ("body", "joint", "geom", "site", "camera", "light", "actuator", "sensor", "tendon")
"""What of a model has a name and values that change."""

_SHORT = {"cam": "camera", "jnt": "joint", "ten": "tendon"}
"""How MuJoCo's arrays abbreviate some of them: cam_xpos, jnt_range, ten_length."""

_WITHOUT_KIND = ("body", "joint", "actuator")
"""Whose arrays may have names that begin otherwise: xpos, qpos, ctrl."""


def open_world(world: str, folder: Path, *, visible: bool) -> MujocoSimulator:
    """Load an MJCF or URDF file of the experiment."""
    return MujocoSimulator(experiment_file(folder, world, "WorldFileName"), visible=visible)


class MujocoSimulator(Simulator):
    """A MuJoCo model. Types of properties are MuJoCo's own names.

    "site", "body", "joint", ... list what the model has of a kind; the value is a dict of all that MuJoCo computes for
    one of them. Names of MuJoCo's arrays, such as "site_xpos", "xquat", "qpos", "actuator_force", "sensordata" or
    "geom_size", and the same with the kind in front, such as "body_xquat" or "joint_qpos", mean one value each: a numpy
    array, also where it has one element only.

    An engine's step is made of equal physics steps, none longer than the model's `timestep`, so that both clocks agree.

    Attributes:
        model: MuJoCo's MjModel.
        data: MuJoCo's MjData, for what is not offered here.
    """

    def __init__(self, world: Path, *, visible: bool = False) -> None:
        self.model = mujoco.MjModel.from_xml_path(str(world))
        self.data = mujoco.MjData(self.model)
        self._longest_step_ns = max(1, round(self.model.opt.timestep * NANOSECONDS))
        self._timestep_ns = 0
        self._steps = 1
        self._control = self.data.ctrl
        self._values: dict[tuple[str, str], Any] = {}
        mujoco.mj_forward(self.model, self.data)
        self._pictures = Pictures(self.model, self.data)
        self._viewer = _open_viewer(self.model, self.data) if visible else None

    def run_step(self, action: Any, timestep_ns: int) -> None:
        """Set the controls of all actuators, in the model's order (None leaves them as they are), and advance."""
        if action is not None:
            self._set_controls(action)
        if timestep_ns != self._timestep_ns:
            self._divide(timestep_ns)
        mujoco.mj_step(self.model, self.data, self._steps)
        if self._viewer is not None:
            self._viewer.sync()

    def _set_controls(self, action: Any) -> None:
        control = self._control
        values = np.asarray(action, dtype=float)
        if values.shape != control.shape:
            names = ", ".join(self.get_model_properties("actuator")) or "none"
            raise ValueError(
                f"the action has to be a list of {len(control)} numbers, one an actuator (these are: {names});"
                f" it is {action!r}"
            )
        control[:] = values

    def _divide(self, timestep_ns: int) -> None:
        self._timestep_ns = timestep_ns
        self._steps = physics_steps(timestep_ns, self._longest_step_ns)
        self.model.opt.timestep = seconds(timestep_ns) / self._steps

    def reset(self) -> None:
        """Go back to the model's initial positions."""
        mujoco.mj_resetData(self.model, self.data)
        mujoco.mj_forward(self.model, self.data)

    def render(self, camera: str, width: int = 160, height: int = 120) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """A picture of what a camera of the model sees: RGB, of shape (height, width, 3), without shadows.

        Takes some 2 to 10 ms without a graphics card, the first one half a second more.

        Raises:
            ValueError: there is no such camera, or no such size.
            RuntimeError: nothing here can render off screen.
        """
        return self._pictures.take(camera, width, height)

    def shutdown(self) -> None:
        """Close the window."""
        self._pictures.close()
        if self._viewer is not None:
            self._viewer.close()
            self._viewer = None

    def get_model_properties(self, datapack_type: str) -> list[str]:
        """The names of all bodies, sites, ..., those without a name left out."""
        return self._names(self._kind_and_field(datapack_type)[0])

    def get_model_property(self, name: str, datapack_type: str) -> Any:
        """The value of one of them, as of the beginning of the last physics step where it follows from positions."""
        value = self._values.get((name, datapack_type))
        if value is None:
            value = self._values[name, datapack_type] = self._find(name, datapack_type)
        if isinstance(value, dict):
            return {field: array.copy() for field, array in value.items()}
        return value.copy()

    def get_sim_time(self) -> float:
        """MuJoCo's time in seconds."""
        return float(self.data.time)

    def _find(self, name: str, datapack_type: str) -> Any:
        """The arrays in MuJoCo's own memory: they are of the present at any time."""
        kind, field = self._kind_and_field(datapack_type)
        if name not in self._names(kind):
            known = ", ".join(self._names(kind)) or "none"
            raise ValueError(f"the model has no {kind} {name!r}; there are: {known}")
        computed = getattr(self.data, kind)(name)
        if field:
            owner = computed if hasattr(computed, field) else getattr(self.model, kind)(name)
            return getattr(owner, field)
        return {field: getattr(computed, field) for field in _fields(computed)}

    def _names(self, kind: str) -> list[str]:
        element = getattr(self.model, kind)
        return [name for name in (element(index).name for index in range(self._count(kind))) if name]

    def _count(self, kind: str) -> int:
        counts = {"joint": "njnt", "camera": "ncam", "actuator": "nu"}
        return int(getattr(self.model, counts.get(kind, f"n{kind}")))

    def _kind_and_field(self, datapack_type: str) -> tuple[str, str]:
        """The kind of thing that a type of property belongs to, and its field there, "" for all fields."""
        kind = _SHORT.get(datapack_type, datapack_type)
        if kind in _KINDS:
            return kind, ""
        if datapack_type == "sensordata":
            return "sensor", "data"
        prefix, _, field = datapack_type.partition("_")
        kind = _SHORT.get(prefix, prefix)
        if kind in _KINDS and self._has(kind, field):
            return kind, field
        for kind in _WITHOUT_KIND:
            if self._has(kind, datapack_type):
                return kind, datapack_type
        raise ValueError(
            f"the model has nothing of type {datapack_type!r}; types are {', '.join(_KINDS)}, and names of MuJoCo's"
            " arrays such as site_xpos"
        )

    def _has(self, kind: str, field: str) -> bool:
        if not field or not self._count(kind):
            return False
        return any(field in _fields(getattr(owner, kind)(0)) for owner in (self.data, self.model))


def _fields(element: Any) -> list[str]:
    return [field for field in dir(element) if not field.startswith("_") and field not in ("id", "name")]


def _open_viewer(model: Any, data: Any) -> Any:
    import mujoco.viewer  # needs a display, which most machines that simulate do not have

    return mujoco.viewer.launch_passive(model, data)
