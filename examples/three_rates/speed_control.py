from nrp_core.engines.python_json import EngineScript

GAIN = 2.0  # m/s^2 for each m/s that is missing
LIMIT = 3.0  # m/s^2


class Script(EngineScript):
    """Accelerates the vehicle towards the speed that the navigator asks for."""

    def initialize(self):
        for name in ("measured", "wanted", "acceleration"):
            self._registerDataPack(name)
        self.start()

    def start(self):
        self._setDataPack("measured", {"speed": 0.0})
        self._setDataPack("wanted", {"speed": 0.0})
        self._setDataPack("acceleration", {"value": 0.0})

    def runLoop(self, timestep_ns):
        missing = self._getDataPack("wanted")["speed"] - self._getDataPack("measured")["speed"]
        self._setDataPack("acceleration", {"value": max(-LIMIT, min(LIMIT, GAIN * missing))})

    def reset(self):
        self.start()

    def shutdown(self):
        pass
