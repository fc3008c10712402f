import numpy as np
from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "cart"))
@EngineDataPack(keyword="weights", id=DataPackIdentifier("weights", "cart"))
@TransceiverFunction("cart")
def act(state, weights):
    """The policy: push to the side that the weighted sum of what is observed says."""
    action = JsonDataPack("action", "cart")
    action.data["push"] = int(np.dot(weights.data["values"], state.data["observation"]) > 0)
    return [action]
