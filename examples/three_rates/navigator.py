from nrp_core.engines.python_json import EngineScript

CRUISE = 10.0  # m/s
BRAKING = 0.3  # m/s for each m that is left


class Script(EngineScript):
    """Chooses the speed: cruising, and slower the nearer the goal is."""

    def initialize(self):
        self.goal = self._config["EngineExtraConfigs"]["goal"]
        self._registerDataPack("place")
        self._registerDataPack("speed")
        self.start()

    def start(self):
        self._setDataPack("place", {"position": 0.0})
        self._setDataPack("speed", {"value": 0.0})

    def runLoop(self, timestep_ns):
        left = self.goal - self._getDataPack("place")["position"]
        self._setDataPack("speed", {"value": max(-CRUISE, min(CRUISE, BRAKING * left))})

    def reset(self):
        self.start()

    def shutdown(self):
        pass
