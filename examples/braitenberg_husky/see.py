from nrp_core import *
from nrp_core.data.nrp_json import *

PICOAMPERES = 900.0  # at full brightness


@EngineDataPack(keyword="light", id=DataPackIdentifier("light", "husky"))
@TransceiverFunction("brain")
def see(light):
    """The light in each eye becomes a current into a population."""
    currents = []
    for side in ("left", "right"):
        current = JsonDataPack(f"{side}_light", "brain")
        current.data["amplitude"] = PICOAMPERES * light.data[side]
        currents.append(current)
    return currents
