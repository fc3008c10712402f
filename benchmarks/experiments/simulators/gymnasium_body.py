import numpy as np
from nrp_core.engines.py_sim import PySimEngineScript


class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("torso")
        self._registerDataPack("action")
        self._setDataPack("action", {"controls": [0.0] * 17})
        self.look()

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step(np.array(self._getDataPack("action")["controls"]), timestep_ns)
        self.look()

    def look(self):
        position = self.sim_manager.get_model_property("observation", "Property")[:3]
        self._setDataPack("torso", {"position": position, "actuators": 17})
