from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    """Sees the ball the larger the nearer the ground it is."""

    def initialize(self):
        self._registerDataPack("seen")

    def runLoop(self, timestep_ns):
        self._getDataPack("seen")

    def shutdown(self):
        pass
