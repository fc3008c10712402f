import math

from nrp_core import *
from nrp_core.data.nrp_json import *

EVERY_NS = 50_000_000


@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "pendulum"))
@SimulationTime(keyword="time")
@StatusFunction()
def observe(state, time):
    """Never done; what it returns is the trajectory that the main script gets at the end."""
    if time % EVERY_NS:
        return False, []
    point = JsonRawData()
    point.data["time"] = time / 1e9
    point.data["degrees"] = math.degrees(state.data["angle"])
    return False, [point]
