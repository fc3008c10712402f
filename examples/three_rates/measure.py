from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="motion", id=DataPackIdentifier("motion", "vehicle"))
@TransceiverFunction("vehicle")
def measure(motion):
    """1000 times a second: of what is returned for an engine that is not due yet, the last arrives when it is."""
    measured = JsonDataPack("measured", "speed_control")
    measured.data["speed"] = motion.data["speed"]
    place = JsonDataPack("place", "navigator")
    place.data["position"] = motion.data["position"]
    return [measured, place]
