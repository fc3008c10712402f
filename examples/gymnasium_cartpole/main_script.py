# Reinforcement learning in Gymnasium: a policy of four weights (act.py) learns by trial and error to keep the pole on
# the cart (cart.py) upright for the 10 s that an episode lasts at most. Needs `nrp-backend[gym]` installed.
# How it learned is in the results, in learning.csv.
import csv
import random

LONGEST = 10.0  # s
IN_A_ROW = 5  # episodes of that length, and it has learned
EPISODES = 500  # before it is given up

chance = random.Random(1)


def episode(weights):
    """How long the pole stays upright, in seconds."""
    nrp.set_json_datapack("weights", "cart", {"values": weights})
    nrp.reset()
    _, _, trajectory = nrp.run_until_timeout()
    return trajectory[-1]["seconds"]


with open("learning.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["episode", "seconds", "position", "speed", "angle", "angular_speed"])
    best, longest, successes = [0.0] * 4, 0.0, 0
    for number in range(EPISODES):
        tried = best if successes else [weight + chance.gauss(0.0, 0.3) for weight in best]
        seconds = episode(tried)
        table.writerow([number, seconds, *tried])
        successes = successes + 1 if seconds >= LONGEST else 0
        if successes == IN_A_ROW:
            break
        if seconds > longest or successes:
            best, longest = tried, seconds
    else:
        raise RuntimeError(f"it has not learned to keep the pole upright in {EPISODES} episodes")

file_logger.info("after %d episodes the pole stays upright", number + 1)
