# The smallest experiment with a physics simulator: a pendulum in MuJoCo (pendulum.py, world.xml) hangs from a motor
# that is too weak to lift it, and one function (swing_up.py) swings it up and holds it. Needs `nrp-backend[mujoco]`
# installed. The angles are in the results, in pendulum.csv.
import csv

UPRIGHT = 3.0  # degrees

_, _, trajectory = nrp.run_until_timeout()
with open("pendulum.csv", "w", newline="") as file:
    table = csv.DictWriter(file, ["time", "degrees"])
    table.writeheader()
    table.writerows(trajectory)

fallen = [point["time"] for point in trajectory if abs(point["degrees"]) > UPRIGHT]
if fallen[-1] == trajectory[-1]["time"]:
    raise RuntimeError("the pendulum is not upright")
file_logger.info("upright from %.2f s on, until %.2f s", fallen[-1], trajectory[-1]["time"])
