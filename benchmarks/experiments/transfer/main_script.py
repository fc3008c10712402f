import json

with open("frames.json") as file:
    frames = json.load(file)
for _ in range(frames):
    nrp.run_loop()
