import json

from nrp_core import *
from nrp_core.data.nrp_json import *

with open("policy.json") as file:
    policy = json.load(file)


@EngineDataPack(keyword="state", id=DataPackIdentifier("state", "cart"))
@TransceiverFunction("cart")
def steer(state):
    """What the policy does about the state."""
    push = JsonDataPack("push", "cart")
    push.data["force"] = sum(gain * state.data[name] for name, gain in policy.items())
    return [push]
