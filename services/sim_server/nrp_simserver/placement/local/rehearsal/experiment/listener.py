"""Is told the time."""

from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("heard")

    def runLoop(self, timestep_ns):
        self._getDataPack("heard")

    def shutdown(self):
        pass
