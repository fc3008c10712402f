from nrp_core.data.nrp_json import *
from nrp_core.event_loop import *


@FromEngine(keyword="count", address="/source/count")
@ToEngine(keyword="seen", address="/sink")
@FunctionalNode(name="forward", outputs=["seen"])
def forward(count):
    seen = JsonDataPack("seen", "sink")
    seen.data["steps"] = count.data["steps"]
    return [seen]
