from nrp_core.engines.python_json import EngineScript

ON_BELOW = 20.0  # degrees Celsius
OFF_ABOVE = 21.0


class Script(EngineScript):
    """Switches the heating on when it is too cold, and off when it is too warm."""

    def initialize(self):
        self._registerDataPack("measured")
        self._registerDataPack("switch")
        self._setDataPack("measured", {"celsius": ON_BELOW})
        self._setDataPack("switch", {"on": False})

    def runLoop(self, timestep_ns):
        celsius = self._getDataPack("measured")["celsius"]
        if celsius < ON_BELOW:
            self._setDataPack("switch", {"on": True})
        elif celsius > OFF_ABOVE:
            self._setDataPack("switch", {"on": False})

    def reset(self):
        self._setDataPack("switch", {"on": False})

    def shutdown(self):
        pass
