"""Trains the policy of this experiment and writes it to policy.json: python train.py

By the cross-entropy method: of several policies, each tried in an environment of its own, the best tell where to look
next. A policy is linear: a force for each quantity of the state.
"""

import json
from pathlib import Path

import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AsyncVectorEnv

from nrp_simserver.gym import NrpEnv

FOLDER = Path(__file__).parent
STATE = ("angle", "position", "speed", "spin")  # as the numbers of the datapack come: in alphabetical order
POLICIES = 16
BEST = 4
GENERATIONS = 12


def make_env():
    """The experiment, with the agent in the place of the function that steers."""
    return NrpEnv(
        FOLDER,
        action_space=Box(-10, 10, (1,)),
        observation_space=Box(-100, 100, (4,)),
        act=lambda action: [("push", "cart", {"force": action[0]})],
        observe=("state", "cart"),
        reward=lambda now: 1.0,
        overrides={"DataPackProcessingFunctions.Name:steer.IsActive": False},
    )


def lengths(envs, policies, seed):
    """For how many steps each policy, a row of gains, keeps the pole up in an episode of its own."""
    states, _ = envs.reset(seed=seed)
    steps = np.zeros(len(policies))
    is_up = np.ones(len(policies), dtype=bool)
    while is_up.any():
        forces = np.sum(policies * states, axis=1, keepdims=True)
        states, rewards, terminated, truncated, _ = envs.step(np.clip(forces, -10, 10))
        steps += rewards * is_up
        is_up &= ~(terminated | truncated)
    return steps


def train(generations=GENERATIONS, seed=0):
    """The policy that was found, as a dict, and how long the policies of each generation kept the pole up, in steps."""
    rng = np.random.default_rng(seed)
    mean, spread = np.zeros(4), np.full(4, 20.0)
    history = []
    envs = AsyncVectorEnv([make_env] * POLICIES)
    try:
        for generation in range(generations):
            policies = rng.normal(mean, spread, (POLICIES, 4))
            steps = lengths(envs, policies, seed=int(rng.integers(2**31)))
            history.append(steps.mean())
            print(f"generation {generation}: {steps.mean():.0f} steps up, {steps.max():.0f} at best")
            best = policies[np.argsort(steps)[-BEST:]]
            mean, spread = best.mean(axis=0), best.std(axis=0) + 1.0
    finally:
        envs.close()
    return dict(zip(STATE, mean.round(2).tolist(), strict=True)), history


if __name__ == "__main__":
    policy, _ = train()
    (FOLDER / "policy.json").write_text(json.dumps(policy) + "\n")
    print("policy.json:", policy)
