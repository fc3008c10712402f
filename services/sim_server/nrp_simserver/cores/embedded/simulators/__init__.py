"""The physics simulators that engines of type py_sim drive: one interface, one module a simulator.

A simulator is imported when the first engine that drives it is initialised, never before: nobody waits for what the
experiment does not use.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from nrp_simserver.cores.configuration import NANOSECONDS, PySimConfiguration

logger = logging.getLogger(__name__)


class Simulator(ABC):
    """What an engine script has as its `self.sim_manager`."""

    @abstractmethod
    def run_step(self, action: Any, timestep_ns: int) -> None:
        """Apply `action` and advance the simulator by `timestep_ns` nanoseconds.

        Raises:
            ValueError: `action` does not fit the model.
        """

    @abstractmethod
    def reset(self) -> None:
        """Bring the simulator back to the state that the world file describes, and to t = 0."""

    def seed(self, seed: int) -> None:  # noqa: B027  most draw nothing
        """Have what it draws after the next `reset` follow from `seed`."""

    @abstractmethod
    def shutdown(self) -> None:
        """End the simulator, and its window. May be called repeatedly; nothing else may be called afterwards."""

    @abstractmethod
    def get_model_properties(self, datapack_type: str) -> list[str]:
        """The names of all that the model has of a type, in the simulator's order.

        Raises:
            ValueError: there is no such type.
        """

    @abstractmethod
    def get_model_property(self, name: str, datapack_type: str) -> Any:
        """The present value of one of them: a copy.

        Raises:
            ValueError: there is no such type, or nothing of that name.
        """

    def get_model_all_properties(self, datapack_type: str) -> dict[str, Any]:
        """The present values of all of them, by name.

        Raises:
            ValueError: there is no such type.
        """
        return {name: self.get_model_property(name, datapack_type) for name in self.get_model_properties(datapack_type)}

    @abstractmethod
    def get_sim_time(self) -> float:
        """The simulator's own time in seconds."""


class _Adapter(NamedTuple):
    """Where the adapter of a simulator is, and what it needs: an importable module, its distribution, our extra."""

    module: str
    needs: str
    distribution: str
    extra: str


ADAPTERS = {
    "Mujoco": _Adapter("mujoco", "mujoco", "mujoco", "mujoco"),
    "OpenAI": _Adapter("gymnasium", "gymnasium", "gymnasium", "gym"),
    "Bullet": _Adapter("bullet", "pybullet", "pybullet", "bullet"),
    "Opensim": _Adapter("opensim", "opensim", "opensim", "opensim"),
}
"""By what the configuration calls the simulator, those that can be driven."""


def open_simulator(configuration: PySimConfiguration, folder: Path) -> Simulator:
    """The simulator of an engine, with its world loaded.

    Raises:
        ConfigurationError: the experiment has no such world file.
        ValueError: the simulator refuses it.
    """
    adapter = importlib.import_module(f"{__name__}.{ADAPTERS[configuration.simulator].module}")
    simulator: Simulator = adapter.open_world(configuration.world, folder, visible=_visible(configuration))
    return simulator


def physics_steps(timestep_ns: int, longest_ns: int) -> int:
    """How many equal physics steps, none longer than `longest_ns`, make up one step of an engine."""
    return -(-timestep_ns // longest_ns)


def seconds(nanoseconds: int) -> float:
    """Nanoseconds in seconds."""
    return nanoseconds / NANOSECONDS


def has_display() -> bool:
    """Whether there is a screen to show windows on."""
    return sys.platform != "linux" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def render_without_display() -> None:
    """Have MuJoCo render by EGL, off screen, where there is no display and MUJOCO_GL does not say otherwise.

    For whatever imports mujoco from here on, in this whole process: it looks at MUJOCO_GL once. Nothing is done where
    EGL is missing: told to render by it, mujoco could not even be imported.
    """
    if "MUJOCO_GL" not in os.environ and not has_display():
        with suppress(OSError):
            ctypes.CDLL("libEGL.so.1")
            os.environ["MUJOCO_GL"] = "egl"


def _visible(configuration: PySimConfiguration) -> bool:
    """Whether to open a window: asked for, and there is a screen to show it on."""
    wanted = configuration.visualizer
    if isinstance(wanted, str):
        wanted = wanted.strip().lower() in ("true", "yes", "on", "1")
    if wanted and not has_display():
        logger.warning("engine %s: Visualizer has no effect, there is no display", configuration.name)
        return False
    return wanted
