"""Bullet, through pybullet: robots of links and joints, with contacts."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pybullet
from pybullet_utils.bullet_client import BulletClient

from nrp_simserver.cores.configuration import experiment_file
from nrp_simserver.cores.embedded.simulators import Simulator, physics_steps, seconds
from nrp_simserver.cores.embedded.simulators.kinds import Kind, Kinds

GRAVITY = -9.81
"""Along z, in m/s^2: Bullet's own is 0, and it takes none from world files."""

_LONGEST_STEP_NS = 4_166_667
"""1/240 s, which Bullet's solver is tuned for."""

_STRONGEST = 100_000.0
"""N or N m: what a motor exerts at most where the world file sets no limit. Bullet's own default."""

_LOADERS: Mapping[str, tuple[str, dict[str, Any]]] = {
    ".urdf": ("loadURDF", {"flags": pybullet.URDF_USE_INERTIA_FROM_FILE}),
    ".sdf": ("loadSDF", {}),
    ".mjcf": ("loadMJCF", {}),
    ".xml": ("loadMJCF", {}),
}
"""By a world file's ending, the function of pybullet that loads it and its arguments."""

_MODES = {
    "position": pybullet.POSITION_CONTROL,
    "velocity": pybullet.VELOCITY_CONTROL,
    "torque": pybullet.TORQUE_CONTROL,
}

_COMMANDS = frozenset(
    {
        frozenset({"torque"}),
        *(
            frozenset({*targets, *limit})
            for targets in (["position"], ["velocity"], ["position", "velocity"])
            for limit in ([], ["force"])
        ),
    }
)
"""What may be told to a joint together."""

_REAL = (int, float, np.integer, np.floating)

_BASE = -1
"""The link index of a body's base in pybullet."""


class _Link(NamedTuple):
    """Where pybullet has a link: the body, and the number in it."""

    body: int
    number: int


class _Joint(NamedTuple):
    """Where pybullet has a joint, whether it is a hinge or a slider, and what its motor exerts at most."""

    body: int
    number: int
    is_movable: bool
    strongest: float


class _Motors(NamedTuple):
    """Those of a body: what pybullet wants to know of all of its movable joints."""

    joints: list[_Joint]
    numbers: list[int]
    strongest: list[float]

    @classmethod
    def of(cls, joints: list[_Joint]) -> Self:
        """Those of these joints."""
        return cls(joints, [joint.number for joint in joints], [joint.strongest for joint in joints])


ElementT = TypeVar("ElementT", _Link, _Joint)


def open_world(world: str, folder: Path, *, visible: bool) -> BulletSimulator:
    """Load a URDF, SDF or MJCF file of the experiment."""
    return BulletSimulator(experiment_file(folder, world, "WorldFileName"), visible=visible)


class BulletSimulator(Simulator):
    """A world in Bullet, of its own: others in this process have nothing to do with it.

    Types of properties, in SI units and the world's coordinates, vectors as numpy arrays:
    - "joint", with `position` and `velocity`, `reaction_forces` (three forces and three torques, all 0 unless
      `client.enableJointForceTorqueSensor` was called) and `torque` (of its motor). But for the forces these are
      numbers for a hinge or a slider; the position of a ball joint is a quaternion. Fixed joints are left out.
    - "link", and "body", which stands for the base link of a whole robot or object, with `position` (of the link's
      origin), `orientation` (a quaternion x, y, z, w), `linear_velocity`, `angular_velocity`.
    "joint_position" and the like mean one of these values. Names are those of the world file; where several bodies have
    links or joints of one name, these are called `<body>/<name>`.

    An engine's step is made of equal physics steps of at most 1/240 s.

    Attributes:
        client: pybullet's functions, called for this world, such as `client.getCameraImage`.
    """

    def __init__(self, world: Path, *, visible: bool = False) -> None:
        if world.suffix.lower() not in _LOADERS:
            raise ValueError(f"WorldFileName: Bullet loads files that end in {', '.join(_LOADERS)}, not {world.name!r}")
        self._world = world
        self._control = "position"
        self.client: Any = BulletClient(pybullet.GUI if visible else pybullet.DIRECT)
        # Kept, as the client makes them anew whenever it is asked for them.
        self._step = self.client.stepSimulation
        self._set_motors = self.client.setJointMotorControlArray
        self._joint_state = self.client.getJointState
        self._link_state = self.client.getLinkState
        self._base_state = self.client.getBasePositionAndOrientation
        self._timestep_ns = 0
        try:
            self._load()
        except BaseException:
            self.shutdown()
            raise

    def _load(self) -> None:
        load, arguments = _LOADERS[self._world.suffix.lower()]
        try:
            loaded = getattr(self.client, load)(str(self._world), **arguments)
        except pybullet.error as error:
            raise ValueError(f"WorldFileName: {self._world.name}: {error} Bullet's own output says more") from None
        self.client.setGravity(0.0, 0.0, GRAVITY)
        bodies = _Bodies(self.client, [loaded] if isinstance(loaded, int) else loaded)
        self._movable = {name: joint for name, joint in bodies.joints.items() if joint.is_movable}
        self._motors = {
            body: _Motors.of(list(joints)) for body, joints in groupby(self._movable.values(), lambda joint: joint.body)
        }
        self._torques: dict[int, dict[int, float]] = defaultdict(dict)
        self._loose: set[_Joint] = set()
        self._origins: dict[int, Any] = {}
        self._elapsed_ns = 0
        motions = {
            "position": lambda joint: self._state(joint)[0],
            "velocity": lambda joint: self._state(joint)[1],
            "reaction_forces": lambda joint: np.array(self._state(joint)[2]),
            "torque": lambda joint: self._torques[joint.body].get(joint.number, self._state(joint)[3]),
        }
        places = {
            "position": lambda link: np.array(self._frame(link)[0]),
            "orientation": lambda link: np.array(self._frame(link)[1]),
            "linear_velocity": self._linear_velocity,
            "angular_velocity": lambda link: np.array(self._motion(link)[2]),
        }
        self._kinds = Kinds(
            {
                "joint": Kind(bodies.joints, motions),
                "link": Kind(bodies.links, places),
                "body": Kind(bodies.bodies, places),
            }
        )

    @property
    def control(self) -> str:
        """What a plain number in an action is: "position", "velocity" or "torque"."""
        return self._control

    @control.setter
    def control(self, what: str) -> None:
        if what not in _MODES:
            raise ValueError(f"control has to be one of {', '.join(_MODES)}, it is {what!r}")
        self._control = what

    # -- steps ---------------------------------------------------------------------------------------------------------

    def run_step(self, action: Any, timestep_ns: int) -> None:
        """Tell joints what to do, and advance. Each does so until it is told otherwise.

        Args:
            action: a list of numbers, one for every hinge and slider in the model's order; or a dict, or a list of
                pairs, of a joint's name and what it is to do: a number, or a dict with `torque`, or with `position` or
                `velocity` (or both) and perhaps `force`, which its motor exerts at most. A plain number is what the
                attribute `control` says. None leaves all joints as they are.
            timestep_ns: nanoseconds.
        """
        if timestep_ns != self._timestep_ns:
            self._divide(timestep_ns)  # before motors are set: Bullet keeps their force times its step
        if action is not None:
            self._take(action)
        for _ in range(self._steps):
            for body, torques in self._torques.items():  # Bullet forgets them after each physics step
                if torques:
                    self._set_motors(body, list(torques), pybullet.TORQUE_CONTROL, forces=list(torques.values()))
            self._step()
        self._elapsed_ns += timestep_ns

    def _divide(self, timestep_ns: int) -> None:
        self._timestep_ns = timestep_ns
        self._steps = physics_steps(timestep_ns, _LONGEST_STEP_NS)
        self.client.setTimeStep(seconds(timestep_ns) / self._steps)

    def _take(self, action: Any) -> None:
        if isinstance(action, Mapping):
            self._command(action.items())
        elif isinstance(action, list | tuple) and action and all(_is_pair(entry) for entry in action):
            self._command(action)
        else:
            self._command_all(action)

    def _command_all(self, action: Any) -> None:
        """Tell every joint its number: as `_command` does, which takes longer as it goes from joint to joint."""
        try:
            values = [] if isinstance(action, str) else [float(value) for value in action]
        except (TypeError, ValueError):
            values = []
        if len(values) != len(self._movable) or not math.isfinite(sum(values)):
            raise ValueError(
                f"the action has to be a list of {len(self._movable)} finite numbers, one a joint (these are:"
                f" {', '.join(self._movable) or 'none'}), or a dict of joints' names and what they are to do;"
                f" it is {action!r}"
            )
        first = 0
        for body, motors in self._motors.items():
            targets = values[first : first + len(motors.numbers)]
            first += len(motors.numbers)
            if self._control == "torque":
                self._loosen(motors.joints)
                self._torques[body] = dict(zip(motors.numbers, targets, strict=True))
                continue
            self._torques.pop(body, None)
            self._loose.difference_update(motors.joints)
            target = {"targetPositions" if self._control == "position" else "targetVelocities": targets}
            self._set_motors(body, motors.numbers, _MODES[self._control], forces=motors.strongest, **target)

    def _command(self, commands: Iterable[tuple[str, Any]]) -> None:
        motors: dict[tuple[int, int], list[tuple[int, float, float, float]]] = defaultdict(list)
        for name, command in commands:
            joint = self._movable.get(name)
            if joint is None:
                known = ", ".join(self._movable) or "none"
                raise ValueError(f"the action moves joint {name!r}, which is none of those that can be moved: {known}")
            given = command if isinstance(command, dict) else {self.control: command}
            self._check(name, given)
            if "torque" in given:
                self._loosen([joint])
                self._torques[joint.body][joint.number] = given["torque"]
                continue
            self._torques[joint.body].pop(joint.number, None)
            self._loose.discard(joint)
            mode = pybullet.POSITION_CONTROL if "position" in given else pybullet.VELOCITY_CONTROL
            position, velocity = given.get("position", 0.0), given.get("velocity", 0.0)
            motors[joint.body, mode].append((joint.number, position, velocity, given.get("force", joint.strongest)))
        for (body, mode), driven in motors.items():
            joints, positions, velocities, forces = zip(*driven, strict=True)
            targets = {"targetPositions": positions, "targetVelocities": velocities, "forces": forces}
            self._set_motors(body, joints, mode, **targets)

    def _check(self, name: str, given: dict[str, Any]) -> None:
        for what, value in given.items():
            if not (isinstance(value, _REAL) and math.isfinite(value)):
                raise ValueError(f"the action for joint {name!r}: {what} has to be a finite number, it is {value!r}")
        if frozenset(given) not in _COMMANDS:
            raise ValueError(
                f"the action for joint {name!r} has to be a number, or a dict with 'position', 'velocity' or both, and"
                f" perhaps 'force', or with 'torque' alone; it is {given!r}"
            )

    def _loosen(self, joints: list[_Joint]) -> None:
        """Switch the motors off that Bullet has in all joints and that brake them."""
        for joint in joints:
            if joint not in self._loose:
                self._set_motors(joint.body, [joint.number], pybullet.VELOCITY_CONTROL, forces=[0.0])
                self._loose.add(joint)

    # -- the rest ------------------------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Load the world file again. What a script added or set with `client`, it has to add and set again."""
        self.client.resetSimulation()
        self._timestep_ns = 0
        self._load()

    def shutdown(self) -> None:
        """Free the world, and close the window."""
        if self.client.isConnected():
            self.client.disconnect()

    def get_model_properties(self, datapack_type: str) -> list[str]:
        """The names of all joints, links or bodies."""
        return self._kinds.names(datapack_type)

    def get_model_property(self, name: str, datapack_type: str) -> Any:
        """The present value, or a dict of all values, of a joint, link or body."""
        return self._kinds.value(name, datapack_type)

    def get_sim_time(self) -> float:
        """The seconds that the steps since the last reset make together."""
        return seconds(self._elapsed_ns)

    def _state(self, joint: _Joint) -> tuple[Any, ...]:
        """Position, velocity, reaction forces and torque of a joint."""
        if joint.is_movable:
            state: tuple[Any, ...] = self._joint_state(joint.body, joint.number)
            return state
        return tuple(np.array(values) for values in self.client.getJointStateMultiDof(joint.body, joint.number))

    def _frame(self, link: _Link) -> tuple[Any, Any]:
        """Position and orientation of a link, not of its centre of mass."""
        if link.number != _BASE:
            state = self._link_state(link.body, link.number, computeForwardKinematics=1)
            return state[4], state[5]
        centre, turned = self._base_state(link.body)
        position, orientation = pybullet.multiplyTransforms(centre, turned, *self._from_centre(link.body))
        return position, orientation

    def _from_centre(self, body: int) -> Any:
        """Where the origin of a body's base is, seen from its centre of mass; that never changes."""
        if body not in self._origins:
            inertial = self.client.getDynamicsInfo(body, _BASE)
            self._origins[body] = self.client.invertTransform(inertial[3], inertial[4])
        return self._origins[body]

    def _motion(self, link: _Link) -> tuple[Any, Any, Any]:
        """Position and velocity of a link's centre of mass, and how the link turns."""
        if link.number == _BASE:
            return self._base_state(link.body)[0], *self.client.getBaseVelocity(link.body)
        state = self._link_state(link.body, link.number, computeLinkVelocity=1, computeForwardKinematics=1)
        return state[0], state[6], state[7]

    def _linear_velocity(self, link: _Link) -> Any:
        centre, linear, angular = self._motion(link)
        return linear + np.cross(angular, np.subtract(self._frame(link)[0], centre))


class _Bodies:
    """What a world consists of, by name.

    Attributes:
        bodies: their base links.
        links: the base links too.
        joints: without fixed ones.
    """

    def __init__(self, client: Any, identifiers: Iterable[int]) -> None:
        named = [(body, *_texts(*client.getBodyInfo(body))) for body in identifiers]
        count = Counter(name for _, _, name in named)
        # A file of several bodies may have one name for all of them, or none; then their base links tell them apart.
        names = _distinct(base if count[name] > 1 or not name else name for _, base, name in named)
        links: list[tuple[str, str, _Link]] = []
        joints: list[tuple[str, str, _Joint]] = []
        for owner, (body, base, _) in zip(names, named, strict=True):
            links.append((owner, base, _Link(body, _BASE)))
            for number in range(client.getNumJoints(body)):
                info = client.getJointInfo(body, number)
                links.append((owner, _text(info[12]), _Link(body, number)))
                if info[2] != pybullet.JOINT_FIXED:
                    is_movable = info[2] in (pybullet.JOINT_REVOLUTE, pybullet.JOINT_PRISMATIC)
                    joints.append((owner, _text(info[1]), _Joint(body, number, is_movable, info[10] or _STRONGEST)))
        self.bodies = {name: _Link(body, _BASE) for name, (body, _, _) in zip(names, named, strict=True)}
        self.links = _by_name(links)
        self.joints = _by_name(joints)


def _by_name(owned: list[tuple[str, str, ElementT]]) -> dict[str, ElementT]:
    """Elements by name, or by the owner's name and theirs where several have one name."""
    count = Counter(name for _, name, _ in owned)
    names = _distinct(f"{owner}/{name}" if count[name] > 1 else name for owner, name, _ in owned)
    return dict(zip(names, (element for _, _, element in owned), strict=True))


def _distinct(names: Iterable[str]) -> list[str]:
    """The names; of the second of a name and further ones with their number behind."""
    seen: Counter[str] = Counter()
    distinct = []
    for name in names:
        seen[name] += 1
        distinct.append(name if seen[name] == 1 else f"{name}_{seen[name]}")
    return distinct


def _text(name: bytes) -> str:
    return name.decode(errors="replace")


def _texts(base: bytes, body: bytes) -> tuple[str, str]:
    return _text(base), _text(body)


def _is_pair(entry: object) -> bool:
    return isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
