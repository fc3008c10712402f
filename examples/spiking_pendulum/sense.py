from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="joint", id=DataPackIdentifier("joint", "pendulum"))
@TransceiverFunction("pendulum")
def sense(joint):
    """What the brain feels of the body."""
    senses = JsonDataPack("senses", "brain")
    senses.data["angle"] = joint.data["angle"]
    senses.data["speed"] = joint.data["speed"]
    return [senses]
