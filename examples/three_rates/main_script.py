# Engines at three rates, and a status function that says when the experiment is done and gathers a trajectory.
# A vehicle (1 kHz) is accelerated by a speed control (100 Hz) that gets its speed from a navigator (20 Hz).
# The functions run whenever the engine that they are linked to has ended a step; what they return waits for its target.

done, timed_out, trajectory = nrp.run_until_timeout()
if done:
    file_logger.info("arrived at %(position).2f m after %(time).2f s", trajectory[-1])
else:
    file_logger.warning("did not arrive in time")
