# A closed loop of body and brain: an inverted pendulum (pendulum.py) that a population of spiking leaky integrate-and-
# fire neurons (brain.py) keeps upright for 20 s, though gusts of wind push it. sense.py and act.py join the two. Its
# results, every 10 ms, are in pendulum.csv: time, angle, torque of the motor, and mean firing rate.

try:
    while True:
        nrp.run_loop(1000)
        file_logger.info("the pendulum has been up for another second")
except NRPSimulationTimeout:
    file_logger.info("it was up to the end")
