# Shows what the robot streams while it runs, and keeps the latest picture of its camera in camera.jpg. In a terminal of
# its own, beside `nrp up`:
#
#     .venv/bin/python examples/braitenberg_husky/watch.py [HOST:PORT of the MQTT broker]

import sys
from pathlib import Path

import paho.mqtt.client as mqtt

from nrp_shims.nrp_protobuf.dump_pb2 import ArrayFloat
from nrp_shims.nrp_protobuf.engine_grpc_pb2 import DataPackMessage
from nrp_shims.nrp_protobuf.wrappers_pb2 import BytesValue


def show(client, userdata, message):
    name = message.topic.rsplit("/", 1)[1]
    if message.payload == b"reset":
        print("the simulation was reset")
    elif name == "pose":  # JSON is sent as it is
        print(name, message.payload.decode())
    else:  # a protobuf message is wrapped in another, which says what it is
        wrapped = DataPackMessage.FromString(message.payload).data
        if name == "camera":
            picture = BytesValue()
            wrapped.Unpack(picture)
            Path("camera.jpg").write_bytes(picture.value)
            print(name, len(picture.value), "bytes")
        else:
            numbers = ArrayFloat()
            wrapped.Unpack(numbers)
            left, right = numbers.float_stream
            print(f"{name} left {left:.2f} right {right:.2f}")


broker, _, port = (sys.argv[1:] or ["127.0.0.1:1883"])[0].rpartition(":")
client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
client.on_connect = lambda *_: client.subscribe("nrp_simulation/+/data/+")
client.on_subscribe = lambda *_: print("watching", flush=True)
client.on_message = show
client.connect(broker, int(port))
client.loop_forever()
