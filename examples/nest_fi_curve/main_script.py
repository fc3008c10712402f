# A network in NEST without a body: the main script drives neurons (brain.py) with one current after the other and
# counts their spikes (count.py), which makes the f-I curve of the neuron. Needs `nrp-backend[nest]` installed.
# The curve is in the results, in fi_curve.csv.
import csv

NEURONS = 20
SETTLE = 4  # steps of 50 ms, until the neurons no longer show how they began
STEPS = 20  # that are counted

with open("fi_curve.csv", "w", newline="") as file:
    table = csv.writer(file)
    table.writerow(["current_pA", "rate_Hz"])
    for picoamperes in range(1000, 299, -50):  # from the strongest: neurons that do not fire fall into step
        nrp.set_json_datapack("current", "brain", {"amplitude": float(picoamperes)})
        nrp.run_loop(SETTLE)
        # What is set arrives before the step, and what is read is of before the step: hence one more.
        nrp.set_json_datapack("spikes", "brain", {"n_events": 0})
        _, trajectory = nrp.run_loop(STEPS + 1)
        rate = trajectory[-1]["spikes"] / NEURONS / (STEPS * 0.05)
        table.writerow([picoamperes, rate])
        file_logger.info("%d pA: %.1f Hz", picoamperes, rate)
