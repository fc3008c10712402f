from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("count")
        self.steps = 0
        self._setDataPack("count", {"steps": 0})

    def runLoop(self, timestep_ns):
        self.steps += 1
        self._setDataPack("count", {"steps": self.steps})

    def shutdown(self):
        pass
