from nrp_core.engines.python_json import EngineScript

GRAVITY = 9.81  # m/s^2
HEIGHT = 1.2  # m, half a second's fall


class Script(EngineScript):
    """A ball that falls and stays where it falls."""

    def initialize(self):
        self._registerDataPack("height")
        self._setDataPack("height", {"metres": HEIGHT})

    def runLoop(self, timestep_ns):
        time = self._time_ns * 1e-9
        self._setDataPack("height", {"metres": max(0.0, HEIGHT - GRAVITY / 2 * time**2)})

    def shutdown(self):
        pass
