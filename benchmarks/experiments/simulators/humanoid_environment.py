"""A humanoid in MuJoCo as an environment of Gymnasium's, without what that needs for videos."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np

STEPS = 5


class HumanoidEnvironment(gymnasium.Env):
    def __init__(self):
        self.model = mujoco.MjModel.from_xml_path(str(Path(__file__).with_name("humanoid.xml")))
        self.data = mujoco.MjData(self.model)
        count = self.model.nq + self.model.nv
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (count,))
        self.action_space = gymnasium.spaces.Box(-0.4, 0.4, (self.model.nu,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        return self.observe(), {}

    def step(self, action):
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, STEPS)
        return self.observe(), float(self.data.qvel[0]), False, False, {}

    def observe(self):
        return np.concatenate([self.data.qpos, self.data.qvel]).astype(np.float32)


gymnasium.register("OwnHumanoid-v0", HumanoidEnvironment, disable_env_checker=True)
