from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="temperature", id=DataPackIdentifier("temperature", "room"))
@EngineDataPack(keyword="switch", id=DataPackIdentifier("switch", "thermostat"))
@TransceiverFunction("thermostat")
def exchange(temperature, switch):
    """Tell the thermostat the temperature, and the room whether it is heated."""
    measured = JsonDataPack("measured", "thermostat")
    measured.data["celsius"] = temperature.data["celsius"]
    heating = JsonDataPack("heating", "room")
    heating.data["on"] = switch.data["on"]
    return [measured, heating]
