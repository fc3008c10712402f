from nrp_core.engines.py_sim import PySimEngineScript


class Script(PySimEngineScript):
    def initialize(self):
        self._registerDataPack("torso")
        self._registerDataPack("action")
        self._setDataPack("action", {"controls": None})
        self.look()

    def runLoop(self, timestep_ns):
        self.sim_manager.run_step(self._getDataPack("action")["controls"], timestep_ns)
        self.look()

    def look(self):
        position = self.sim_manager.get_model_property("torso", "body_xpos")
        self._setDataPack("torso", {"position": position, "actuators": 17})
