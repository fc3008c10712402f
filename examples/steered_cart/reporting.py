from nrp_core.data.nrp_json import *
from nrp_core.event_loop import *


@FromEngine(keyword="motion", address="/cart/motion")
@ToMQTT(keyword="motion", address="steered_cart/motion", type=NlohmannJson, compute_period=5)
@FunctionalNode(name="report", outputs=["motion"])
def report(motion):
    """The graph runs 50 times a second; in every fifth cycle what was returned last is published."""
    return motion.data
