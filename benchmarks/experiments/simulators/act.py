from nrp_core import *
from nrp_core.data.nrp_json import *

CONTROL = 0.1  # always the same, so that the bare simulator does the same


@EngineDataPack(keyword="torso", id=DataPackIdentifier("torso", "body"))
@TransceiverFunction("body")
def act(torso):
    action = JsonDataPack("action", "body")
    action.data["controls"] = [CONTROL] * torso.data["actuators"]
    return [action]
