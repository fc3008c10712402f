"""Experiments as Gymnasium environments."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import takewhile
from pathlib import Path
from textwrap import dedent
from typing import Any

import numpy as np
import psutil
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv

from nrp_common.errors import ConfigurationError, EngineFailed
from nrp_simserver.gym import Moment, NrpEnv
from tests.unit.cores.experiment import Experiment, seen

BODY = """
import random
import numpy as np

class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("push")
        self._registerDataPack("state")
        self._registerDataPack("begin")
        self.reset()

    def reset(self):
        self._setDataPack("push", 0.0)
        self._setDataPack("begin", None)
        self.position = 0.0
        self.noise = [random.uniform(0, 1), float(np.random.uniform(0, 1))]
        self.tell()

    def runLoop(self, timestep_ns):
        push = self._getDataPack("push")
        self.position += np.ravel(push)[0] * timestep_ns * 1e-9
        seen.append((self._time_ns, push, self._getDataPack("begin")))
        self.noise = [random.uniform(0, 1), float(np.random.uniform(0, 1))]
        self.tell()

    def tell(self):
        self._setDataPack("state", {"x": self.position, "noise": self.noise, "is_left": self.position < 0})
"""
"""Moves by what pushes it; draws two random numbers in each step and reset."""

DONE_AT = """
@SimulationTime(keyword="time")
@StatusFunction()
def status(time):
    told = JsonRawData()
    told.data["ms"] = time // 1_000_000
    return time == {nanoseconds}, [told]
"""

STATE = Box(-10, 10, (4,), np.float64)
"""is_left, the two numbers of noise, x."""

STANDARD: dict[str, Any] = {
    "action_space": Box(-1, 1, (1,)),
    "observation_space": STATE,
    "act": ("push", "body"),
    "observe": ("state", "body"),
    "reward": lambda now: now.time,
}

Maker = Callable[..., NrpEnv]


@pytest.fixture
def body(experiment: Experiment) -> Experiment:
    return experiment.engine("body", BODY, timestep=0.01)


@pytest.fixture
def make(experiment: Experiment) -> Iterator[Maker]:
    """Makes environments of an experiment, by default of the test's with a body; they are closed afterwards."""
    made: list[NrpEnv] = []

    def make(of: Experiment = experiment, fields: dict[str, Any] | None = None, **arguments: Any) -> NrpEnv:
        of.core(**(fields or {}))
        made.append(NrpEnv(of.folder, **{**STANDARD, **arguments}))
        return made[-1]

    yield make
    for env in made:
        env.close()


def episode(env: NrpEnv, steps: int, seed: int | None = None) -> list[list[float]]:
    """What is observed in the first steps of an episode in which the agent does nothing."""
    observed = [env.reset(seed=seed)[0]]
    observed += [env.step(np.zeros(1))[0] for _ in range(steps)]
    return [list(observation) for observation in observed]


# -- what Gymnasium expects ------------------------------------------------------------------------------------------


def test_gymnasiums_checker_finds_nothing(body: Experiment, make: Maker) -> None:
    check_env(make(), skip_render_check=True)


def test_several_run_in_processes_of_their_own(body: Experiment, make: Maker) -> None:
    alone = [episode(make(), 3, seed) for seed in (5, 6, 7)]
    envs = AsyncVectorEnv([lambda: NrpEnv(body.folder, **STANDARD)] * 3)
    try:
        together = [envs.reset(seed=5)[0]]
        together += [envs.step(np.zeros((3, 1)))[0] for _ in range(3)]
    finally:
        envs.close()
    assert np.swapaxes(together, 0, 1).tolist() == alone


def test_several_in_one_process_take_turns(
    body: Experiment, make: Maker, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = Experiment(tmp_path_factory.mktemp("other"))
    for experiment, scale in ((body, 1), (other, 10)):
        experiment.file("units.py", f"SCALE = {scale}")
        late = BODY.replace("np.ravel(push)[0]", "self.scaled(push)") + (
            "    def scaled(self, push):\n        import units\n        return np.ravel(push)[0] * units.SCALE\n"
        )
        experiment.configuration.pop("EngineConfigs", None)
        experiment.engine("body", late, timestep=0.01)
    first, second = make(), make(other)
    alone = episode(make(), 2, seed=3)
    first.reset(seed=3)
    second.reset(seed=3)
    for _ in range(2):
        x, y = first.step(np.ones(1))[0][3], second.step(np.ones(1))[0][3]
        assert y == pytest.approx(10 * x)
    second.close()
    assert episode(first, 2, seed=3) == alone


# -- a step ----------------------------------------------------------------------------------------------------------


def test_an_action_goes_to_its_place_and_acts_in_the_step(body: Experiment, make: Maker) -> None:
    env = make(steps=5)
    env.reset()
    observation, reward, terminated, truncated, info = env.step(np.array([0.5], np.float32))
    assert observation[3] == pytest.approx(0.025)
    assert (reward, terminated, truncated, info) == (0.05, False, False, {"time": 0.05})
    assert [(time, push) for time, push, _ in seen] == [(time * 10_000_000, [0.5]) for time in range(1, 6)]


def test_functions_say_what_an_action_sends_and_what_is_observed(body: Experiment, make: Maker) -> None:
    moments: list[Moment] = []

    def observe(now: Moment) -> list[float]:
        moments.append(now)
        return [now.datapack("state", "body")["x"]]

    env = make(
        action_space=Discrete(3),
        observation_space=Box(-1, 1, (1,)),
        act=lambda action: [("push", "body", action - 1)],
        observe=observe,
        reward=lambda now: -now.datapack("state", "body")["x"],
    )
    observation, _ = env.reset()
    assert observation.tolist() == [0.0]
    observation, reward, *_ = env.step(np.int64(0))
    assert observation.dtype == np.float32
    assert observation[0] == pytest.approx(-0.01)
    assert reward == pytest.approx(0.01)
    assert [(now.action, now.time, now.done, now.trajectory) for now in moments] == [
        (None, 0.0, False, []),
        (0, 0.01, False, []),
    ]


def test_spaces_of_several_parts_have_a_place_each(body: Experiment, make: Maker) -> None:
    env = make(
        action_space=Dict({"push": Box(-1, 1, (1,)), "begin": Discrete(2)}),
        act={"push": ("push", "body"), "begin": ("begin", "body")},
        observation_space=Dict({"state": STATE, "push": Box(-1, 1, (1, 1)), "begin": Discrete(2)}),
        observe={"state": ("state", "body"), "push": ("push", "body"), "begin": ("begin", "body")},
        begin=lambda *_: [("begin", "body", 0)],
        reward=("push", "body"),
    )
    env.reset()
    observation, reward, *_ = env.step({"push": np.array([0.5]), "begin": 1})
    assert env.observation_space.contains(observation)
    assert observation["push"].tolist() == [[0.5]]
    assert observation["begin"] == 1
    assert reward == 0.5


def test_the_numbers_of_several_places_follow_each_other(body: Experiment, make: Maker) -> None:
    env = make(observation_space=Box(-1, 1, (5,)), observe=[("push", "body"), ("state", "body")])
    env.reset()
    observation, *_ = env.step(np.array([-0.5]))
    assert observation[[0, 1, 4]].tolist() == pytest.approx([-0.5, 1, -0.005])


def test_messages_are_sent_and_seen(experiment: Experiment, make: Maker) -> None:
    from nrp_shims.nrp_protobuf import wrappers_pb2

    messages: Any = wrappers_pb2
    experiment.grpc_engine(
        "body",
        """
        class Script(GrpcEngineScript):
            def initialize(self):
                self._registerDataPack("push", wrappers_pb2.DoubleValue)
            def runLoop(self, timestep_ns):
                pass
        """,
    )
    env = make(
        act=lambda action: [("push", "body", messages.DoubleValue(value=action[0]))],
        observation_space=Box(-1, 1, (1,)),
        observe=lambda now: [now.datapack("push", "body").value],
    )
    env.reset()
    assert env.step(np.array([0.5]))[0].tolist() == [0.5]


# -- episodes --------------------------------------------------------------------------------------------------------


def test_an_episode_ends_when_the_status_function_reports_done(body: Experiment, make: Maker) -> None:
    body.status(DONE_AT.format(nanoseconds=60_000_000))
    trajectories = []
    env = make(steps=5, reward=lambda now: trajectories.append(now.trajectory) or 1.0)
    env.reset()
    assert env.step(np.ones(1))[2:] == (False, False, {"time": 0.05})
    assert env.step(np.ones(1))[2:] == (True, False, {"time": 0.07})
    assert [[told["ms"] for told in trajectory] for trajectory in trajectories] == [[0, 10, 20, 30, 40], [50, 60]]


def test_an_episode_ends_when_a_function_says_so(body: Experiment, make: Maker) -> None:
    env = make(terminated=lambda now: now.time > 0.015)
    env.reset()
    assert [env.step(np.ones(1))[2] for _ in range(2)] == [False, True]


def test_an_episode_is_cut_off_when_no_whole_step_is_left_before_the_timeout(body: Experiment, make: Maker) -> None:
    env = make(fields={"SimulationTimeout": 0.1}, steps=3)
    for _ in range(2):
        env.reset()
        assert [env.step(np.ones(1))[2:4] for _ in range(3)] == [(False, False), (False, False), (False, True)]


def test_a_step_longer_than_the_timeout_is_refused(body: Experiment, make: Maker) -> None:
    with pytest.raises(ConfigurationError, match=r"SimulationTimeout is 0\.1 s, a step of the environment 0\.11 s"):
        make(fields={"SimulationTimeout": 0.1}, steps=11)


def test_steps_outside_of_an_episode_are_refused(body: Experiment, make: Maker) -> None:
    env = make(terminated=lambda now: True)
    for begin in (lambda: None, lambda: (env.reset(), env.step(np.ones(1)))):
        begin()
        with pytest.raises(ResetNeeded):
            env.step(np.ones(1))


def test_what_an_episode_begins_with_depends_on_options_and_seed(body: Experiment, make: Maker) -> None:
    env = make(begin=lambda rng, options: [("begin", "body", {"at": rng.integers(1000), **options})])
    for options in (None, {"wind": 3}):
        env.reset(seed=1, options=options)
        env.step(np.ones(1))
        env.step(np.ones(1))
    calm, _, windy, _ = (begin for *_, begin in seen)
    assert windy == {**calm, "wind": 3}


def test_an_experiment_that_failed_says_where(body: Experiment, make: Maker) -> None:
    body.function("fail", '@TransceiverFunction("body")\ndef fail():\n    1 / 0\n')
    env = make()
    env.reset()
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError in fail.py \(Line 6\)"):
        env.step(np.ones(1))


# -- seeds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("apart", [False, True], ids=["here", "in a process of its own"])
def test_the_same_seed_gives_the_same_episode_and_none_another_one(body: Experiment, make: Maker, apart: bool) -> None:
    body.configuration["EngineConfigs"][0]["EngineExtraConfigs"] = {"OwnProcess": apart}
    env, another = make(), make()
    first, next_one = episode(env, 3, seed=1), episode(env, 3)
    assert first != next_one
    assert episode(another, 3, seed=2) not in (first, next_one)
    assert episode(another, 3, seed=1) == first
    assert episode(another, 3) == next_one


def test_random_numbers_of_functions_follow_from_the_seed(body: Experiment, make: Maker) -> None:
    body.function(
        "push",
        """
        import random, numpy

        @TransceiverFunction("body")
        def push():
            out = JsonDataPack("push", "body")
            out.data["force"] = random.random() + float(numpy.random.random())
            return [out]
        """,
    )
    body.file("body.py", (body.folder / "body.py").read_text().replace("np.ravel(push)[0]", 'push["force"]'))
    env = make()
    assert episode(env, 2, seed=4) == episode(env, 2, seed=4)


def test_the_random_numbers_of_whoever_trains_are_left_alone(body: Experiment, make: Maker) -> None:
    def numbers() -> list[float]:
        return [random.random(), float(np.random.random()), random.gauss(0, 1)]

    def seed() -> None:
        random.seed(1)
        np.random.seed(1)

    seed()
    undisturbed = [numbers() for _ in range(4)]
    env = make()
    seed()
    disturbed = [numbers()]
    env.reset(seed=7)
    disturbed.append(numbers())
    for _ in range(2):
        env.step(np.ones(1))
        disturbed.append(numbers())
    assert disturbed == undisturbed


@pytest.mark.parametrize("engine_type", ["nest_json", "nest_server"])
def test_noise_in_nest_follows_from_the_seed_unless_the_configuration_fixes_it(
    experiment: Experiment, make: Maker, engine_type: str
) -> None:
    experiment.file(
        "network.py",
        """
        import nest
        from nrp_core.engines.nest_json import CreateDataPack

        noise = nest.Create("poisson_generator", params={"rate": 80000.0})
        nest.Connect(noise, CreateDataPack("neuron", "iaf_psc_alpha"))
        """,
    )
    entry = {"EngineName": "brain", "EngineType": engine_type, "NestInitFileName": "network.py"}

    def voltages(*seeds: int | None) -> list[float]:
        env = make(
            act=lambda action: [],
            observation_space=Box(-1000, 0, (1,)),
            observe=lambda now: [now.datapack("neuron", "brain")[0]["V_m"]],
        )
        ends = [episode(env, 1, seed)[-1][0] for seed in seeds]
        env.close()
        return ends

    experiment.configuration["EngineConfigs"] = [entry]
    first, again, other, another = voltages(1, 1, None, 2)
    assert first == again
    assert len({first, other, another}) == 3
    experiment.configuration["EngineConfigs"] = [{**entry, "NestRNGSeed": 5}]
    assert len(set(voltages(1, None))) == 1


def test_worlds_of_gymnasium_are_seeded(experiment: Experiment, make: Maker) -> None:
    experiment.file(
        "body.py",
        """
        from nrp_core.engines.py_sim import PySimEngineScript

        class Script(PySimEngineScript):
            def initialize(self):
                self._registerDataPack("state")
                self.tell()

            def tell(self):
                self._setDataPack("state", self.sim_manager.get_model_property("observation", "Property"))

            def runLoop(self, timestep_ns):
                self.sim_manager.run_step(0, timestep_ns)
                self.tell()

            def reset(self):
                self.sim_manager.reset()
                self.tell()
        """,
    )
    entry = {"EngineName": "body", "EngineType": "py_sim", "PythonFileName": "body.py", "Simulator": "OpenAI"}
    experiment.configuration["EngineConfigs"] = [{**entry, "WorldFileName": "CartPole-v1"}]
    env = make(act=lambda action: [])
    first = episode(env, 2, seed=1)
    assert episode(env, 2) != first
    assert episode(env, 2, seed=1) == first


# -- what does not fit -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"steps": 0}, "steps has to be at least 1"),
        ({"act": ("push", "legs")}, "act: there is no engine 'legs'; engines are: body"),
        ({"act": "push"}, r"act has to be \(datapack, engine\) or a function, it is 'push'"),
        ({"observe": ("state", "eyes")}, "observe: there is no engine 'eyes'"),
        ({"reward": ("state",)}, "reward has to be"),
        ({"observe": {"a": ("state", "body")}}, "observe is a dict, the space is none: Box"),
        (
            {"act": {"a": ("push", "body")}, "action_space": Dict({"b": Discrete(2)})},
            r"act\['a'\]: the space has",
        ),
        ({"act": {}, "action_space": Dict({"b": Discrete(2)})}, "act says nothing about 'b'"),
        ({"render_mode": "human"}, "render_mode has to be None or 'rgb_array', it is 'human'"),
        ({"render_mode": "rgb_array"}, "needs a function `render`"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_at_once(
    body: Experiment, make: Maker, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        make(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"observation_space": Box(0, 1, (3,))}, r"observe: there are 4 numbers, the space is Box"),
        ({"observe": lambda now: [1.0]}, r"observe: there are 1 numbers, the space is Box"),
        ({"observe": ("begin", "body")}, "datapack 'begin' of engine 'body' has None where a number should be"),
        ({"reward": ("state", "body")}, "reward: datapack 'state' of engine 'body' has 4 numbers, not 1"),
    ],
)
def test_what_does_not_fit_its_space_is_told(
    body: Experiment, make: Maker, arguments: dict[str, Any], words: str
) -> None:
    env = make(**arguments)
    with pytest.raises(ValueError, match=words):
        (env.reset(), env.step(np.ones(1)))


def test_a_datapack_that_is_not_there_is_told(body: Experiment, make: Maker) -> None:
    with pytest.raises(EngineFailed, match=r"'smell', which body\.py does not register"):
        make(observe=("smell", "body")).reset()


@pytest.mark.parametrize(
    ("space", "value"), [(Discrete(3), 2), (MultiDiscrete([3, 3]), [1, 2]), (Text(5), "hello")], ids=str
)
def test_observations_fit_other_spaces_too(body: Experiment, make: Maker, space: Any, value: Any) -> None:
    observation, _ = make(observation_space=space, observe=lambda now: value).reset()
    assert space.contains(observation)


# -- pictures, and the end -------------------------------------------------------------------------------------------


def test_the_picture_is_of_the_present_moment(body: Experiment, make: Maker) -> None:
    def picture(now: Moment) -> Any:
        return np.full((2, 3, 3), round(now.time * 1000), np.uint8)

    env = make(render=picture, render_mode="rgb_array", steps=2)
    env.reset()
    env.step(np.ones(1))
    assert env.render().tolist() == [[[20, 20, 20]] * 3] * 2
    assert env.metadata == {"render_modes": ["rgb_array"], "render_fps": 50}
    assert make(render=picture).render() is None


def test_nothing_is_left_of_an_environment_that_was_closed(body: Experiment, make: Maker) -> None:
    body.configuration["EngineConfigs"][0]["EngineExtraConfigs"] = {"OwnProcess": True}
    body.configuration["ExternalProcesses"] = [{"ProcCmd": "sleep", "ProcStartParams": ["600"]}]
    before = psutil.Process().children()
    env = make()
    assert psutil.Process().children() == before
    env.reset()
    assert len(psutil.Process().children()) == len(before) + 2
    env.close()
    env.close()
    assert psutil.Process().children() == before


def test_gymnasium_is_not_imported_unless_it_is_used() -> None:
    code = "import sys, nrp_simserver.cores.embedded; sys.exit('gymnasium' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_gymnasium_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.delitem(sys.modules, "nrp_simserver.gym")
    with pytest.raises(ImportError, match=r"pip install 'nrp-backend\[gym\]'"):
        import nrp_simserver.gym  # noqa: F401


# -- the documentation -----------------------------------------------------------------------------------------------


def test_the_documented_use_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(__file__).parents[3]
    monkeypatch.chdir(root)
    section = (root / "docs" / "experiments.md").read_text().split("## Train on it\n")[1]
    indented = takewhile(lambda line: not line or line.startswith("    "), section.split(":\n\n", 1)[1].split("\n"))
    exec(dedent("\n".join(indented)), {})
    assert re.fullmatch(r"the pole was up for \d\.\d\d s\n", capsys.readouterr().out)
