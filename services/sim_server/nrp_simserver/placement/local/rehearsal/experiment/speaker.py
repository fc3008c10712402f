"""Says the time."""

from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    def initialize(self):
        self._registerDataPack("time")
        self._setDataPack("time", {"ns": 0})

    def runLoop(self, timestep_ns):
        self._setDataPack("time", {"ns": self._time_ns})

    def shutdown(self):
        pass
