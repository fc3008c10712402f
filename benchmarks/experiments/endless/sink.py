from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("seen")

    def runLoop(self, timestep_ns):
        self._getDataPack("seen")

    def shutdown(self):
        pass
