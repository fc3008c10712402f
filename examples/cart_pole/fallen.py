import math

from nrp_core import *
from nrp_core.data.nrp_json import *


@SimulationTime(keyword="time")
@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "cart"))
@StatusFunction()
def fallen(state, time):
    """Whether the pole has fallen or the cart has come to the end of its track."""
    told = JsonRawData()
    told.data["time"] = time * 1e-9
    return abs(state.data["angle"]) > math.radians(12) or abs(state.data["position"]) > 2.4, [told]
