import math

from nrp_core.engines.py_sim import PySimEngineScript


class Script(PySimEngineScript):
    """The pendulum, hanging at first. Its datapack motor (N m) comes in, state (rad from upright, rad/s) goes out."""

    def initialize(self):
        self._registerDataPack("motor")
        self._registerDataPack("state")
        self.begin()

    def begin(self):
        self._setDataPack("motor", {"torque": 0.0})
        self.tell()

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step([self._getDataPack("motor")["torque"]], timestep_ns)
        self.tell()

    def tell(self):
        angle = self.sim_manager.get_model_property("hinge", "joint_qpos")[0]
        speed = self.sim_manager.get_model_property("hinge", "joint_qvel")[0]
        self._setDataPack("state", {"angle": math.remainder(angle - math.pi, math.tau), "speed": speed})

    def reset(self):
        self.sim_manager.reset()
        self.begin()

    def shutdown(self):
        pass
