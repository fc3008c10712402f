"""What the core adds to a simulator's own step, in an experiment of one engine and one function that closes the loop.

Rounds of bare steps and of steps through the core alternate in this process: each simulator is compared with itself.
"""

from __future__ import annotations

import importlib.util
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import numpy.random  # noqa: F401  as in a simulation server, where it is imported before engines are

from benchmarks.figures import Figure
from nrp_simserver.cores.embedded import EmbeddedCore

EXPERIMENT = Path(__file__).parent / "experiments" / "simulators"

WARM_UP = 200
STEPS = 10
ROUNDS = 151
CONTROL = 0.1


def measure_simulators() -> list[Figure]:
    """Each of the simulators that are installed."""
    figures = []
    with _folder() as folder:
        for what, package, configuration, bare_step in (
            ("MuJoCo, a humanoid, 15 ms", "mujoco", "mujoco.json", _mujoco),
            ("Gymnasium, a humanoid, 15 ms", "gymnasium", "gymnasium.json", _gymnasium),
            ("Bullet, a humanoid, 12.5 ms", "pybullet", "bullet.json", _bullet),
            ("NEST, 1000 neurons, 20 ms", "nest", "nest.json", _nest),
        ):
            if importlib.util.find_spec(package) is None:
                figures.append(Figure(f"a step of {what}", f"{package} is not installed"))
                continue
            figures.append(
                Figure(f"a step of {what}, over the bare simulator's", _over(folder, configuration, bare_step))
            )
    return figures


def _over(folder: Path, configuration: str, bare_step: Callable[[Path], Callable[[], object]]) -> str:
    core = EmbeddedCore(folder, configuration)
    core.initialize()
    with chdir(folder):  # as a simulation server is
        step = bare_step(folder)
        for _ in range(WARM_UP):
            step()
            core.run_loop()
        bare, through_core = [], []
        for _ in range(ROUNDS):
            bare.append(_seconds_a_call(step))
            through_core.append(_seconds_a_call(core.run_loop))
    core.shutdown()
    ratios = [over / own for over, own in zip(through_core, bare, strict=True)]
    added = statistics.median(over - own for over, own in zip(through_core, bare, strict=True))
    own = statistics.median(bare)
    return f"{100 * (statistics.median(ratios) - 1):+.1f} % ({added * 1e6:.0f} us on top of {own * 1e6:.0f} us)"


def _seconds_a_call(call: Callable[[], object]) -> float:
    """In processor time: nothing in a step waits, and what else the machine does says nothing about the core."""
    began = time.process_time()
    for _ in range(STEPS):
        call()
    return (time.process_time() - began) / STEPS


def _mujoco(folder: Path) -> Callable[[], object]:
    import mujoco

    model = mujoco.MjModel.from_xml_path(str(folder / "humanoid.xml"))
    data = mujoco.MjData(model)

    def step() -> None:
        data.ctrl[:] = CONTROL
        mujoco.mj_step(model, data, 5)

    return step


def _gymnasium(_folder: Path) -> Callable[[], object]:
    import gymnasium
    import numpy as np

    environment = gymnasium.make("OwnHumanoid-v0")  # registered by the engine
    environment.reset()
    action = np.full(17, CONTROL)
    return lambda: environment.step(action)


def _bullet(folder: Path) -> Callable[[], object]:
    import pybullet

    client = pybullet.connect(pybullet.DIRECT)
    _, humanoid = pybullet.loadMJCF(str(folder / "bullet_humanoid.xml"), physicsClientId=client)
    pybullet.setGravity(0, 0, -9.81, physicsClientId=client)
    pybullet.setTimeStep(0.0125 / 3, physicsClientId=client)
    infos = [pybullet.getJointInfo(humanoid, index, client) for index in range(pybullet.getNumJoints(humanoid, client))]
    joints = [info[0] for info in infos if info[2] == pybullet.JOINT_REVOLUTE]

    def step() -> None:
        pybullet.setJointMotorControlArray(
            humanoid,
            joints,
            pybullet.POSITION_CONTROL,
            targetPositions=[CONTROL] * len(joints),
            forces=[100_000.0] * len(joints),
            physicsClientId=client,
        )
        for _ in range(3):
            pybullet.stepSimulation(client)

    return step


def _nest(_folder: Path) -> Callable[[], object]:
    import nest

    return lambda: nest.Simulate(20.0)  # there is one network a process: the engine's


@contextmanager
def _folder() -> Iterator[Path]:
    """The experiment, with the models of humanoids that Gymnasium and pybullet bring along."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(shutil.copytree(EXPERIMENT, Path(scratch) / "experiment"))
        for package, model, name in (
            ("gymnasium", "envs/mujoco/assets/humanoid.xml", "humanoid.xml"),
            ("pybullet_data", "mjcf/humanoid.xml", "bullet_humanoid.xml"),
        ):
            spec: Any = importlib.util.find_spec(package)
            if spec is not None:
                shutil.copy(Path(spec.origin).parent / model, folder / name)
        yield folder
