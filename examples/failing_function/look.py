from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="height", id=DataPackIdentifier("height", "ball"))
@TransceiverFunction("observer")
def look(height):
    seen = JsonDataPack("seen", "observer")
    seen.data["size"] = apparent_size(height.data["metres"])
    return [seen]


def apparent_size(height):
    return 1.0 / height
