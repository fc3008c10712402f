# A Braitenberg vehicle: a four-wheeled robot in MuJoCo (husky.py, world.xml) with two light sensors, and two crossed
# populations of spiking neurons in NEST (brain.py) that drive it to a red ball. Needs `nrp-backend[demo]` installed.
#
# Ten times a second show.py and drive.py hand on what the front camera sees, how bright it is in the eyes, how the
# neurons spike and where the robot is: live over MQTT, and all but the pictures in files among the results. The camera
# is set in simulation_config.json: "behind" looks at the robot, "picture_every_s": 0 takes no pictures.
# `nrp run --realtime-factor 1 examples/braitenberg_husky` holds it to real time, for whoever watches.

done, timed_out, trajectory = nrp.run_until_timeout()
if done:
    file_logger.info("reached the ball after %.2f s", trajectory[0]["time_s"])
else:
    raise RuntimeError("the robot has not found the ball")
