"""Gymnasium (OpenAI's Gym as it is kept up today): environments for reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium

from nrp_simserver.cores.embedded.simulators import Simulator, seconds

PROPERTIES = ("observation", "reward", "truncated", "doneFlag", "trainInfo")
"""All properties there are; their one type is "Property"."""


def open_world(world: str, _folder: Path, *, visible: bool) -> GymnasiumSimulator:
    """Make the environment of that id, such as "CartPole-v1", or "module:Id-v0" with a module of the experiment."""
    return GymnasiumSimulator(world, visible=visible)


class GymnasiumSimulator(Simulator):
    """A Gymnasium environment, reset once when it is made.

    Properties are of type "Property": `observation`, `reward`, `doneFlag` (the episode has terminated), `truncated`
    (it was cut off, by a limit of time) and `trainInfo` (a dict). After the end of an episode `reset` begins the next.

    Attributes:
        env: the environment.
    """

    def __init__(self, world: str, *, visible: bool = False) -> None:
        try:
            # Environments of one's own often know no render modes.
            self.env: Any = gymnasium.make(world, render_mode="human") if visible else gymnasium.make(world)
        except (gymnasium.error.Error, ImportError) as error:
            raise ValueError(f"WorldFileName: {world!r} is no environment that Gymnasium can make: {error}") from error
        self._observation: Any = None
        self._info: dict[str, Any] = {}
        self._reward: Any = 0.0
        self._terminated = self._truncated = False
        self._time_ns = 0
        self._seed: int | None = None
        self.reset()

    def run_step(self, action: Any, timestep_ns: int) -> None:
        """Take one step of the environment, however long it thinks that this is."""
        self._observation, self._reward, self._terminated, self._truncated, self._info = self.env.step(action)
        self._time_ns += timestep_ns

    def reset(self, seed: int | None = None) -> None:
        """Begin an episode.

        Args:
            seed: seeds the environment's random generator, which goes on where it was when it is None, unless `seed`
                was called since the last reset.
        """
        seed, self._seed = self._seed if seed is None else seed, None
        self._observation, self._info = self.env.reset(seed=seed)
        self._reward = 0.0
        self._terminated = self._truncated = False
        self._time_ns = 0

    def seed(self, seed: int) -> None:
        """Have the next episode begin with that seed."""
        self._seed = seed

    def shutdown(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_model_properties(self, datapack_type: str) -> list[str]:
        """The names of all properties."""
        _expect_property(datapack_type)
        return list(PROPERTIES)

    def get_model_property(self, name: str, datapack_type: str) -> Any:
        """A property as the last step left it: as the environment made it."""
        properties = self.get_model_all_properties(datapack_type)
        if name not in properties:
            raise ValueError(f"there is no property {name!r}; there are: {', '.join(PROPERTIES)}")
        return properties[name]

    def get_model_all_properties(self, datapack_type: str) -> dict[str, Any]:
        """All properties as the last step left them."""
        _expect_property(datapack_type)
        return {
            "observation": self._observation,
            "reward": self._reward,
            "truncated": self._truncated,
            "doneFlag": self._terminated,
            "trainInfo": self._info,
        }

    def get_sim_time(self) -> float:
        """The seconds that the steps since the last reset make together."""
        return seconds(self._time_ns)


def _expect_property(datapack_type: str) -> None:
    if datapack_type != "Property":
        raise ValueError(f"there is nothing of type {datapack_type!r}; the one type is 'Property'")
