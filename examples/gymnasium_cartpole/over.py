from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "cart"))
@SimulationTime(keyword="time")
@StatusFunction()
def over(state, time):
    """Done when the pole has fallen, the cart has left the track, or 10 s have passed."""
    if not state.data["over"]:
        return False, []
    episode = JsonRawData()
    episode.data["seconds"] = time / 1e9
    return True, [episode]
