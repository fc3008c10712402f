"""An experiment as a Gymnasium environment, to train on.

    from gymnasium.spaces import Box
    from nrp_simserver.gym import NrpEnv

    env = NrpEnv(
        "my_experiment",
        action_space=Box(-1, 1, (1,)),
        observation_space=Box(-10, 10, (2,)),
        act=("force", "body"),
        observe=("joint", "body"),
        reward=lambda now: now.datapack("joint", "body")["height"],
        steps=5,
    )

The experiment runs in the embedded core, without its main script: what that would do the agent does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nrp_common.errors import ConfigurationError
from nrp_simserver.cores.configuration import DEFAULT_FILE, NANOSECONDS, load_configuration
from nrp_simserver.cores.embedded import EmbeddedCore
from nrp_simserver.server.external_processes import ExternalProcesses

try:
    import gymnasium
    import numpy as np
    from gymnasium import spaces
except ImportError as error:
    raise ImportError("environments need Gymnasium: pip install 'nrp-backend[gym]'") from error

Place = tuple[str, str]
"""Which datapack: its name and its engine's."""

Sending = Iterable[tuple[str, str, Any]]
"""Datapacks for engines, each its name, its engine's, and its data: JSON values, numpy's among them, or a message."""


class Moment:
    """The simulation at the end of a step of the environment, or at its reset.

    Attributes:
        action: what the agent did in the step; None at a reset.
        time: the simulated time in seconds.
        done: whether the status function said so in the step.
        trajectory: what the status function returned in the step; nothing at a reset, when it has not run yet.
    """

    __slots__ = ("_core", "_read", "action", "done", "time", "trajectory")

    def __init__(self, core: EmbeddedCore, action: Any, done: bool, trajectory: list[Any]) -> None:
        self._core = core
        self._read: dict[Place, Any] = {}
        self.action = action
        self.done = done
        self.time = core.time_ns / NANOSECONDS
        self.trajectory = trajectory

    def datapack(self, name: str, engine: str) -> Any:
        """What an engine holds in a datapack after its last step: JSON values or a message.

        Raises:
            ValueError: there is no such engine.
            EngineFailed: it has no such datapack.
        """
        place = (name, engine)
        if place not in self._read:
            self._read[place] = self._core.get_datapack(name, engine)
        return self._read[place]


class NrpEnv(gymnasium.Env):  # type: ignore[misc]
    """Runs episodes of an experiment.

    An action goes to engines as datapacks; then the experiment runs for `steps` smallest timesteps, fewer when its
    status function reports done; observation and reward are what the engines hold then. `terminated` is what the
    status function reported; `truncated` is that no whole step is left before SimulationTimeout.

    A reset brings the engines back to t = 0 by their own `reset`, and has all random numbers of the experiment follow
    from the environment's generator `np_random`, which `reset(seed=...)` seeds; see `EmbeddedCore.seed`.

    Where a `Place` will do, it is (datapack, engine). An action is sent to its place as it is, in JSON: a number, a
    list. From its place an observation, a reward, or whether the episode has terminated is all the numbers in the
    datapack, those of an object in the alphabetical order of its keys. Engines of several timesteps are best read when
    the steps of all of them end: one that is in the middle of a longer step tells what will be at its end.

    Args:
        folder: the experiment's folder.
        action_space: what the agent can do.
        observation_space: what it sees.
        act: the place that an action goes to, one for each key of a Dict space, or a function that returns what an
            action is to send.
        observe: the place that observations come from, several of them whose numbers follow each other, one for each
            key of a Dict space, or a function. What it returns is made to fit the space's shape and type.
        reward: the place of the reward of a step, or a function.
        terminated: the place or a function that says whether the episode has ended, beside the status function.
        begin: what an episode begins with: called with `np_random` and the options of the reset, returns datapacks
            that engines have from the first step on.
        steps: the smallest timesteps in a step of the environment.
        config_file: the experiment's configuration.
        overrides: of the configuration, by path, such as {"EngineConfigs.EngineName:body.EngineTimestep": 0.002}.
        render: the picture of a moment, an array of shape (height, width, 3) of type uint8.
        render_mode: None, or "rgb_array", for `render()` to return it.

    Raises:
        ConfigurationError: the configuration is missing or wrong, or its timeout is shorter than one step.
        EngineUnavailable: an engine cannot be run here.
        ValueError: arguments do not fit each other or the experiment.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        action_space: Any,
        observation_space: Any,
        act: Place | Mapping[str, Place] | Callable[[Any], Sending],
        observe: Place | Sequence[Place] | Mapping[str, Place] | Callable[[Moment], Any],
        reward: Place | Callable[[Moment], float],
        terminated: Place | Callable[[Moment], bool] | None = None,
        begin: Callable[[np.random.Generator, dict[str, Any]], Sending] | None = None,
        steps: int = 1,
        config_file: str = DEFAULT_FILE,
        overrides: Mapping[str, Any] | None = None,
        render: Callable[[Moment], Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps has to be at least 1, it is {steps}")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode has to be None or 'rgb_array', it is {render_mode!r}")
        if render_mode is not None and render is None:
            raise ValueError("render_mode 'rgb_array' needs a function `render`")
        self.action_space = action_space
        self.observation_space = observation_space
        self.render_mode = render_mode
        folder = Path(folder).resolve()
        configuration = load_configuration(folder, config_file, overrides)
        self._core = core = EmbeddedCore(folder, configuration=configuration)
        self._step_ns = steps * core.timestep_ns
        self.metadata = {"render_modes": ["rgb_array"], "render_fps": NANOSECONDS / self._step_ns}
        if core.timeout_ns and self._step_ns > core.timeout_ns:
            raise ConfigurationError(
                f"{config_file}: SimulationTimeout is {core.timeout_ns / NANOSECONDS:g} s, a step of the environment"
                f" {self._step_ns / NANOSECONDS:g} s",
                file=config_file,
            )
        self._steps = steps
        self._external_processes = ExternalProcesses()
        known = [engine.name for engine in configuration.engines]
        self._act = _actor(act, action_space, known)
        self._observe = _observer(observe, observation_space, known)
        self._reward = _number_of(reward, "reward", known)
        self._terminated = _number_of(terminated, "terminated", known) if terminated is not None else None
        self._begin = begin
        self._render = render
        self._moment: Moment | None = None
        self._is_over = True

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin an episode.

        Args:
            seed: seeds `np_random`, which goes on where it is when this is None.
            options: handed to `begin`.

        Returns:
            The observation, and {"time": 0.0}.

        Raises:
            EngineFailed, FunctionFailed: the experiment failed, and cannot be used any more.
            ValueError: the observation does not fit its space.
        """
        super().reset(seed=seed)
        core = self._core
        core_seed = int(self.np_random.integers(2**32))
        if core.current_state() == "Created":
            self._external_processes.start(core.configuration.external_processes, core.folder)
            core.seed(core_seed)
            core.initialize()
        core.seed(core_seed)
        self._external_processes.check()
        if self._begin is not None:
            self._send(self._begin(self.np_random, options or {}))
        core.reset()
        self._is_over = False
        self._moment = Moment(core, None, False, [])
        return self._observe(self._moment), {"time": self._moment.time}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Take a step of the episode.

        Returns:
            (observation, reward, terminated, truncated, {"time": the simulated time in seconds}).

        Raises:
            ResetNeeded: the episode is over, or none was begun.
            EngineFailed, FunctionFailed: the experiment failed, and cannot be used any more.
            ValueError: what came of the step does not fit the observation's space, or is no reward.
        """
        if self._is_over:
            raise gymnasium.error.ResetNeeded("the episode is over: call reset() before step()")
        core = self._core
        self._send(self._act(action))
        done, trajectory = core.run_loop(self._steps, until_done=True)
        self._moment = moment = Moment(core, action, done, trajectory if done else core.gathered())
        terminated = done or (self._terminated is not None and bool(self._terminated(moment)))
        truncated = bool(core.timeout_ns) and core.time_ns + self._step_ns > core.timeout_ns
        self._is_over = terminated or truncated
        return self._observe(moment), float(self._reward(moment)), terminated, truncated, {"time": moment.time}

    def render(self) -> Any:
        """The picture of the present moment, or None when the environment was made without `render_mode`."""
        if self.render_mode is None or self._render is None or self._moment is None:
            return None
        return self._render(self._moment)

    def close(self) -> None:
        """End the engines and the experiment's external processes. May be called repeatedly.

        Raises:
            EngineFailed: an engine failed while it ended; all have ended nevertheless.
        """
        self._is_over = True
        try:
            self._core.shutdown()
        finally:
            self._external_processes.end()

    def _send(self, datapacks: Sending) -> None:
        for datapack, engine, data in datapacks:
            if hasattr(data, "DESCRIPTOR"):
                self._core.set_proto_datapack(datapack, engine, data)
            else:
                self._core.set_json_datapack(datapack, engine, data)


# -- what stands for actions, observations and rewards ---------------------------------------------------------------


def _actor(act: Any, space: Any, engines: Sequence[str]) -> Callable[[Any], Sending]:
    if callable(act):
        return act  # type: ignore[no-any-return]
    if isinstance(act, Mapping):
        places = {key: _place(place, f"act[{key!r}]", engines) for key, place in act.items()}
        _check_keys("act", places, space)
        return lambda action: [(datapack, engine, action[key]) for key, (datapack, engine) in places.items()]
    datapack, engine = _place(act, "act", engines)
    return lambda action: [(datapack, engine, action)]


def _observer(observe: Any, space: Any, engines: Sequence[str]) -> Callable[[Moment], Any]:
    if isinstance(observe, Mapping):
        parts = {key: _observer(place, _part(space, key, "observe"), engines) for key, place in observe.items()}
        _check_keys("observe", parts, space)
        return lambda now: {key: part(now) for key, part in parts.items()}
    fit = _fitting(space, "observe")
    if callable(observe):
        return lambda now: fit(observe(now))
    several = observe if isinstance(observe, list) else [observe]
    places = [_place(place, "observe", engines) for place in several]
    return lambda now: fit([number for place in places for number in _numbers_at(place, now)])


def _number_of(what: Any, argument: str, engines: Sequence[str]) -> Callable[[Moment], Any]:
    if callable(what):
        return what  # type: ignore[no-any-return]
    place = _place(what, argument, engines)

    def number(now: Moment) -> float:
        numbers = _numbers_at(place, now)
        if len(numbers) != 1:
            raise ValueError(
                f"{argument}: datapack {place[0]!r} of engine {place[1]!r} has {len(numbers)} numbers, not 1"
            )
        return numbers[0]

    return number


def _place(place: Any, argument: str, engines: Sequence[str]) -> Place:
    if not (isinstance(place, tuple) and len(place) == 2 and all(isinstance(name, str) for name in place)):
        raise ValueError(f"{argument} has to be (datapack, engine) or a function, it is {place!r}")
    datapack, engine = place
    if engine not in engines:
        raise ValueError(f"{argument}: there is no engine {engine!r}; engines are: {', '.join(engines)}")
    return datapack, engine


def _part(space: Any, key: str, argument: str) -> Any:
    if not isinstance(space, spaces.Dict):
        raise ValueError(f"{argument} is a dict, the space is none: {space}")
    if key not in space.spaces:
        raise ValueError(f"{argument}[{key!r}]: the space has no such key: {space}")
    return space[key]


def _check_keys(argument: str, keys: Iterable[str], space: Any) -> None:
    for key in keys:
        _part(space, key, argument)
    left_out = sorted(set(space.spaces) - set(keys))
    if left_out:
        raise ValueError(f"{argument} says nothing about {left_out[0]!r} of the space: {space}")


def _numbers_at(place: Place, now: Moment) -> list[float]:
    numbers: list[float] = []
    _gather(now.datapack(*place), numbers, place)
    return numbers


def _gather(data: Any, numbers: list[float], place: Place) -> None:
    if isinstance(data, int | float):
        numbers.append(data)
    elif isinstance(data, dict):  # sorted by its keys
        for item in data.values():
            _gather(item, numbers, place)
    elif isinstance(data, list):
        for item in data:
            _gather(item, numbers, place)
    else:
        datapack, engine = place
        raise ValueError(
            f"datapack {datapack!r} of engine {engine!r} has {data!r} where a number should be; a function can say what"
            " to make of it"
        )


def _fitting(space: Any, argument: str) -> Callable[[Any], Any]:
    """What brings a value into the form that a space's members have; for unknown kinds of spaces it stays as it is."""
    if isinstance(space, spaces.Dict):
        parts = {key: _fitting(part, f"{argument}[{key!r}]") for key, part in space.spaces.items()}
        return lambda value: {key: fit(value[key]) for key, fit in parts.items()}
    if isinstance(space, spaces.Discrete):
        return lambda value: np.int64(np.asarray(value).item())
    if not isinstance(space, spaces.Box | spaces.MultiDiscrete | spaces.MultiBinary):
        return lambda value: value
    shape, dtype, size = space.shape, space.dtype, math.prod(space.shape)

    def fit(value: Any) -> Any:
        array = np.asarray(value, dtype)
        if array.size != size:
            raise ValueError(f"{argument}: there are {array.size} numbers, the space is {space}: {value!r}")
        return array if array.shape == shape else array.reshape(shape)

    return fit
