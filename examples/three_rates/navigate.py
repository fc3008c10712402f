from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="speed", id=DataPackIdentifier("speed", "navigator"))
@TransceiverFunction("navigator")
def navigate(speed):
    """20 times a second: hand the speed that the navigator wants to the speed control."""
    wanted = JsonDataPack("wanted", "speed_control")
    wanted.data["speed"] = speed.data["value"]
    return [wanted]
