# A Braitenberg vehicle: a four-wheeled robot in MuJoCo (husky.py, world.xml) with two light sensors, and two crossed
# populations of spiking neurons in NEST (brain.py) that drive it to a red ball. Needs `nrp-backend[demo]` installed.
# Its way is in the results, in track.csv.

done, timed_out, trajectory = nrp.run_until_timeout()
if done:
    file_logger.info("reached the ball after %.2f s", trajectory[0]["time_s"])
else:
    raise RuntimeError("the robot has not found the ball")
