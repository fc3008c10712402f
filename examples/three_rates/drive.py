from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="acceleration", id=DataPackIdentifier("acceleration", "speed_control"))
@TransceiverFunction("speed_control")
def drive(acceleration):
    """100 times a second, when the speed control has ended a step: hand its acceleration to the vehicle."""
    drive = JsonDataPack("drive", "vehicle")
    drive.data["acceleration"] = acceleration.data["value"]
    return [drive]
