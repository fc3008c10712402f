import base64

from nrp_core import *
from nrp_core.data.nrp_json import *
from nrp_core.data.nrp_protobuf import *


@EngineDataPack(keyword="picture", id=DataPackIdentifier("picture", "husky"))
@EngineDataPack(keyword="light", id=DataPackIdentifier("light", "husky"))
@EngineDataPack(keyword="pose", id=DataPackIdentifier("pose", "husky"))
@TransceiverFunction("out")
def show(picture, light, pose):
    """Whenever the data transfer engine is due, hand it what there is to see."""
    camera = WrappersBytesValueDataPack("camera", "out")
    camera.data.value = base64.b64decode(picture.data["jpeg"])
    eyes = DumpArrayFloatDataPack("light", "out")
    eyes.data.float_stream.extend([light.data["left"], light.data["right"]])
    place = JsonDataPack("pose", "out")
    for key in pose.data:
        place.data[key] = pose.data[key]
    return [camera, eyes, place]
