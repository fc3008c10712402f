"""In real time, as a hundred experiments side by side would run on two cores."""

import time

while True:
    nrp.run_loop()
    time.sleep(0.01)
