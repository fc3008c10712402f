from nrp_core.engines.python_json import EngineScript


class Script(EngineScript):
    """Computes, in Python, for some 5 ms a step."""

    def initialize(self):
        pass

    def runLoop(self, timestep_ns):
        total = 0
        for number in range(100_000):
            total += number * number

    def shutdown(self):
        pass
