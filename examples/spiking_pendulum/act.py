from nrp_core import *
from nrp_core.data.nrp_json import *


@EngineDataPack(keyword="command", id=DataPackIdentifier("command", "brain"))
@TransceiverFunction("brain")
def act(command):
    """What the body does for the brain."""
    motor = JsonDataPack("motor", "pendulum")
    motor.data["torque"] = command.data["torque"]
    motor.data["rate"] = command.data["rate"]
    return [motor]
